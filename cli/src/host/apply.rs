//! Makes the changes of a plan, each journaled before it is made and read back after.

use super::decide::{Decision, decide};
use super::facts::Machine;
use super::guards;
use super::journal::{Journal, JournalError, What};
use super::known;
use super::plan::Row;
use super::status::{Status, describe, refused_write};
use super::values::{Key, Values};

/// Changes what is planned; each row says then what became of it.
///
/// # Errors
/// A journal that cannot be written. What was changed before is in it; nothing more is.
pub(crate) fn apply(
    rows: &mut [Row],
    machine: &Machine,
    values: &dyn Values,
    journal: &mut Journal,
) -> Result<(), JournalError> {
    for row in rows.iter_mut().filter(|row| row.status == Status::Planned) {
        row.status = change(row, machine, values, journal)?;
    }
    Ok(())
}

fn change(
    row: &mut Row,
    machine: &Machine,
    values: &dyn Values,
    journal: &mut Journal,
) -> Result<Status, JournalError> {
    let prior = match values.read(&row.key) {
        Ok(prior) => prior,
        Err(error) => return Ok(Status::Failed { errno: describe(&error) }),
    };
    if prior == row.wanted {
        return Ok(Status::Already);
    }
    if Some(&prior) != row.now.as_ref() {
        return Ok(Status::Failed { errno: format!("it became {prior} meanwhile; run it again") });
    }
    // What it depends on may not have become what was planned.
    if let Some(reason) =
        guards::harm(&row.key.name(), &prior, &row.wanted, &|key| values.read(&Key::parse(key)?).ok())
    {
        return Ok(Status::Refused { reason });
    }
    let twin = known::twin(&row.key.name()).and_then(|twin| {
        let value = values.read(&Key::Sysctl(twin.to_owned())).ok()?;
        (prior == "0" && value != "0").then(|| (twin.to_owned(), value))
    });
    let change = journal.change(What::Value {
        key: row.key.name(),
        prior: prior.clone(),
        ours: row.wanted.clone(),
        namespace: row.key.name().starts_with("net.").then(|| machine.namespace.clone()),
        boot: machine.namespace.boot.clone(),
        twin,
    })?;
    if let Err(error) = values.write(&row.key, &row.wanted) {
        // A kernel that refuses a value may have taken a part of it all the same.
        return match values.read(&row.key) {
            Ok(now) if now != prior => {
                journal.read_back(change, now.clone())?;
                let errno = format!("{}; it became {now} all the same", describe(&error));
                Ok(Status::Failed { errno })
            }
            Ok(_) => {
                journal.settled(change)?;
                Ok(refused_write(&error, machine.is_root))
            }
            Err(_) => Ok(refused_write(&error, machine.is_root)),
        };
    }
    match values.read(&row.key) {
        Ok(got) => {
            journal.read_back(change, got.clone())?;
            Ok(made_of(row, got))
        }
        Err(error) => Ok(Status::Failed { errno: format!("written, not read back: {}", describe(&error)) }),
    }
}

/// What the kernel made of a value may be as good as what was asked for: some are rounded up.
fn made_of(row: &mut Row, got: String) -> Status {
    if got == row.wanted {
        return Status::Raised;
    }
    let decision =
        row.wish.as_ref().map(|wish| decide(&row.key.name(), &got, &wish.wanted, wish.allow_lower));
    match decision {
        Some(Decision::Stay(Status::Already | Status::KeptHigher { equals: false })) => {
            row.wanted = got;
            Status::Raised
        }
        Some(Decision::Stay(status @ Status::KeptHigher { equals: true })) => status,
        _ => Status::Clamped { got },
    }
}

//! `scalekit dlq`: the writes that the database refused for good, listed, shown, put back or given up.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use http::StatusCode;
use scalekit_service::contract::{Dropped, Letter, LetterPage, Replayed};
use serde::de::DeserializeOwned;
use serde_json::json;
use url::Url;

use super::access::Entry;
use super::http::{Http, Reply};
use super::{control_runtime, deploy, print, tune};
use crate::args::{DlqAction, DlqArgs, DlqService, Global, Which};
use crate::deploy::StateDir;
use crate::exit::ExitStatus;
use crate::profile::{self, Layer, flag_error};
use crate::report::rfc3339;

/// Letters that are asked for at once.
const PAGE: u64 = 1000;
/// Letters that one command takes on; what is beyond waits for the next one.
const MAX_LETTERS: usize = 1_000_000;
/// Characters of a reason in the table.
const REASON: usize = 72;

pub(super) fn dlq(global: &Global, args: &DlqArgs) -> anyhow::Result<ExitStatus> {
    match &args.action {
        DlqAction::List { collection, limit, service } => {
            let office = Office::new(global, service)?;
            control_runtime()?.block_on(list(global, &office, collection.as_deref(), *limit))
        }
        DlqAction::Show { id, service } => {
            let office = Office::new(global, service)?;
            let letter: Letter = control_runtime()?.block_on(office.get(&[id], &[]))?;
            print(&if global.json { format!("{}\n", json!(letter)) } else { whole(&letter) })?;
            Ok(ExitStatus::Done)
        }
        DlqAction::Replay { which, as_new, service } => {
            let office = Office::new(global, service)?;
            control_runtime()?.block_on(replay(global, &office, which, *as_new))
        }
        DlqAction::Drop { which, yes, service } => {
            let office = Office::new(global, service)?;
            control_runtime()?.block_on(give_up(global, &office, which, *yes))
        }
    }
}

/// The service that keeps the letters.
struct Office {
    http: Http,
    base: Url,
}

impl Office {
    fn new(global: &Global, service: &DlqService) -> anyhow::Result<Self> {
        let profile = profile::load(&global.profile, Layer::default())?;
        let entry = Entry::new(&profile, &service.token)?;
        let address = match &service.url {
            Some(url) => url.clone(),
            None => {
                let deployment = deploy::find(&StateDir::of_user()?, &profile)?;
                deployment.api_url().to_owned()
            }
        };
        let base = Url::parse(&address).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let base = base.ok_or_else(|| {
            flag_error("--url", format!("{address:?} is no URL of a service"), "write http://HOST:PORT")
        })?;
        Ok(Self { http: entry.http()?, base })
    }

    fn url(&self, parts: &[&str], query: &[(&str, &str)]) -> String {
        let mut url = self.base.clone();
        // Only URLs without a host refuse it.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["v1", "dead-letters"]).extend(parts);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url.into()
    }

    async fn get<T: DeserializeOwned>(&self, parts: &[&str], query: &[(&str, &str)]) -> anyhow::Result<T> {
        let url = self.url(parts, query);
        understood(self.http.get(&url).await?).with_context(|| format!("GET {url}"))
    }

    /// A page of letters after another one.
    async fn page(
        &self,
        collection: Option<&str>,
        limit: u64,
        after: Option<&str>,
    ) -> anyhow::Result<LetterPage> {
        let limit = limit.min(PAGE).to_string();
        let mut query = vec![("limit", limit.as_str())];
        query.extend(collection.map(|collection| ("collection", collection)));
        query.extend(after.map(|after| ("after", after)));
        self.get(&[], &query).await
    }
}

fn understood<T: DeserializeOwned>(reply: Reply) -> anyhow::Result<T> {
    reply.success()?.json().context("the answer is none of scalekit's service")
}

async fn list(
    global: &Global,
    office: &Office,
    collection: Option<&str>,
    limit: u64,
) -> anyhow::Result<ExitStatus> {
    let mut letters: Vec<Letter> = Vec::new();
    let mut after = None;
    loop {
        let left = limit - letters.len() as u64;
        if left == 0 {
            break;
        }
        let page = office.page(collection, left, after.as_deref()).await?;
        letters.extend(page.letters);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let has_more = match &after {
        Some(after) => !office.page(collection, 1, Some(after)).await?.letters.is_empty(),
        None => false,
    };
    if global.json {
        print(&format!("{}\n", json!({ "letters": letters, "more": has_more })))?;
    } else {
        print(&table(&letters, has_more))?;
    }
    Ok(ExitStatus::Done)
}

fn table(letters: &[Letter], has_more: bool) -> String {
    if letters.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let width = letters.iter().map(|letter| letter.id.len()).max().unwrap_or_default();
    let mut text = format!("{:<width$}  {:<20}  {:>5}  WRITE, REASON\n", "ID", "LAST", "TIMES");
    for letter in letters {
        let reason: String = letter.reason.chars().take(REASON).collect();
        let cut = if reason.len() < letter.reason.len() { "…" } else { "" };
        let _ = writeln!(
            text,
            "{:<width$}  {:<20}  {:>5}  {}: {}{cut}",
            letter.id,
            time(letter.last_ms),
            letter.times,
            write_of(letter),
            reason.replace(char::is_control, " ")
        );
    }
    let plural = if letters.len() == 1 { "letter" } else { "letters" };
    let more = if has_more { ", and there are more: --limit N" } else { "" };
    let _ = writeln!(text, "{} dead {plural}{more}", letters.len());
    text
}

/// `insert orders/7`
fn write_of(letter: &Letter) -> String {
    match (letter.op, &letter.collection, &letter.document_id) {
        (Some(op), Some(collection), Some(id)) => {
            let op = json!(op);
            format!("{} {collection}/{id}", op.as_str().unwrap_or_default())
        }
        _ => "unreadable entry".to_owned(),
    }
}

fn time(unix_ms: u64) -> String {
    rfc3339(UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms)).unwrap_or(SystemTime::now()))
}

fn whole(letter: &Letter) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    line("letter", &letter.id);
    line("request", &letter.write_id);
    line("operation", letter.op_id.as_deref().unwrap_or("none"));
    line("write", &write_of(letter));
    line("reason", &letter.reason);
    line("first", &time(letter.first_ms));
    line("last", &time(letter.last_ms));
    line("times", &letter.times.to_string());
    line("size", &format!("{} bytes", letter.bytes));
    if let Some(document) = &letter.document {
        let _ = writeln!(text, "{document:#}");
    }
    if let Some(payload) = &letter.payload {
        let _ = writeln!(text, "{payload}");
    }
    text
}

/// The letters that are named, or all that there are now.
async fn chosen(office: &Office, which: &Which) -> anyhow::Result<Vec<String>> {
    if !which.all {
        return Ok(which.ids.clone());
    }
    let mut ids = Vec::new();
    let mut after = None;
    loop {
        let page = office.page(which.collection.as_deref(), PAGE, after.as_deref()).await?;
        let fits = |letter: &Letter| which.reason.as_ref().is_none_or(|text| letter.reason.contains(text));
        ids.extend(page.letters.into_iter().filter(fits).map(|letter| letter.id));
        after = page.next;
        if after.is_none() || ids.len() >= MAX_LETTERS {
            return Ok(ids);
        }
    }
}

/// What became of each.
#[derive(Default)]
struct Outcome {
    failed: Vec<(String, String)>,
    /// Nothing more is tried: the service cannot be reached, or does not let this in.
    is_over: bool,
    /// What was not tried then.
    left: usize,
}

impl Outcome {
    /// The answer, if there is one; else notes why not. `left` are those after this one.
    fn note<T: DeserializeOwned>(
        &mut self,
        id: &str,
        left: usize,
        reply: anyhow::Result<Reply>,
    ) -> Option<T> {
        // The next one would be told the same.
        let is_the_end = reply.as_ref().map_or(true, |reply| reply.status == StatusCode::UNAUTHORIZED);
        match reply.and_then(understood) {
            Ok(done) => Some(done),
            Err(error) => {
                self.failed.push((id.to_owned(), format!("{error:#}")));
                self.left = if is_the_end { left } else { 0 };
                self.is_over = is_the_end;
                None
            }
        }
    }

    /// Says which failed and why; exit status 1 if any did.
    fn status(&self) -> ExitStatus {
        for (id, why) in &self.failed {
            eprintln!("error: {id}: {why}");
        }
        if self.left > 0 {
            eprintln!("error: {} more were not tried", self.left);
        }
        if self.failed.is_empty() { ExitStatus::Done } else { ExitStatus::Failed }
    }

    fn json(&self) -> Vec<serde_json::Value> {
        self.failed.iter().map(|(id, why)| json!({ "id": id, "why": why })).collect()
    }
}

async fn replay(global: &Global, office: &Office, which: &Which, as_new: bool) -> anyhow::Result<ExitStatus> {
    let ids = chosen(office, which).await?;
    let query: &[(&str, &str)] = if as_new { &[("as_new", "true")] } else { &[] };
    let mut replayed: Vec<Replayed> = Vec::new();
    let mut gone = std::collections::HashSet::new();
    let mut outcome = Outcome::default();
    for (place, id) in ids.iter().enumerate() {
        // It went with another one of its change.
        if gone.contains(id) {
            continue;
        }
        let url = office.url(&[id, "replay"], query);
        let reply = office.http.post(&url, String::new()).await;
        let left = ids.len() - place - 1;
        if let Some(done) = outcome.note::<Replayed>(id, left, reply) {
            gone.extend(done.letters.iter().cloned());
            if !global.json {
                print(&format!("{} replayed as {}\n", done.letters.join(", "), done.write_id))?;
            }
            replayed.push(done);
        }
        if outcome.is_over {
            break;
        }
    }
    if global.json {
        let facts = json!({ "replayed": replayed, "failed": outcome.json(), "not_tried": outcome.left });
        print(&format!("{facts}\n"))?;
    } else if ids.is_empty() {
        print("no dead letters\n")?;
    }
    Ok(outcome.status())
}

async fn give_up(global: &Global, office: &Office, which: &Which, yes: bool) -> anyhow::Result<ExitStatus> {
    let ids = chosen(office, which).await?;
    if !yes && !ids.is_empty() {
        ask(global, ids.len())?;
    }
    let mut dropped = Vec::new();
    let mut outcome = Outcome::default();
    for (place, id) in ids.iter().enumerate() {
        let reply = office.http.delete(&office.url(&[id], &[])).await;
        let done: Option<Dropped> = outcome.note(id, ids.len() - place - 1, reply);
        dropped.extend(done.map(|done| done.id));
        if outcome.is_over {
            break;
        }
    }
    if global.json {
        let facts = json!({ "dropped": dropped, "failed": outcome.json(), "not_tried": outcome.left });
        print(&format!("{facts}\n"))?;
    } else {
        let plural = if dropped.len() == 1 { "letter" } else { "letters" };
        print(&format!("dropped {} dead {plural}\n", dropped.len()))?;
    }
    Ok(outcome.status())
}

/// Waits for a yes.
fn ask(global: &Global, count: usize) -> anyhow::Result<()> {
    if global.json || !io::stdin().is_terminal() {
        bail!(
            "nothing was dropped, since nobody can be asked here\nhelp: --yes drops, `scalekit dlq list` shows"
        );
    }
    let plural = if count == 1 { "letter" } else { "letters" };
    if !tune::confirmed(&format!("drop {count} dead {plural}, which nobody can bring back?"))? {
        bail!("nothing was dropped");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(id: &str, reason: &str) -> Letter {
        serde_json::from_value(json!({
            "id": id, "write_id": "0.5.0.0", "op_id": "k-00", "collection": "orders", "document_id": "7", "op": "merge",
            "reason": reason, "first_ms": 0, "last_ms": 1_795_000_000_000_u64, "times": 3, "bytes": 9,
        }))
        .unwrap()
    }

    #[test]
    fn the_table_is_short_and_stable() {
        assert_eq!(table(&[], false), "no dead letters\n");
        let letters = [letter("0.5.0.0.0", "a rule"), letter("0.15.0.0.12", &"long\n".repeat(20))];
        let expected = format!(
            "ID           LAST                  TIMES  WRITE, REASON\n\
             0.5.0.0.0    2026-11-18T11:06:40Z      3  merge orders/7: a rule\n\
             0.15.0.0.12  2026-11-18T11:06:40Z      3  merge orders/7: {}lo…\n\
             2 dead letters, and there are more: --limit N\n",
            "long ".repeat(14)
        );
        assert_eq!(table(&letters, true), expected);
        let entry =
            Letter { op: None, collection: None, document_id: None, ..letter("0.5.0.0", "version 9") };
        assert!(table(&[entry], false).contains("unreadable entry: version 9\n1 dead letter\n"));
    }
}

//! What would make broken requests, found before the start.

use super::check::{Check, MAX_NEEDLE_BYTES};
use super::plan::{Plan, PlanError, Scenario, Step};
use super::scenario::RequestSource;
use super::transactions;

/// Steps of an iteration.
const MAX_STEPS: usize = 64;

const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;
/// Headers that frame the request or the connection, which the generator sets from what it really sends.
const RESERVED_HEADERS: [&str; 4] = ["content-length", "transfer-encoding", "upgrade", "expect"];

/// Checks a scenario for what would make broken requests; gives what makes them.
pub(super) fn check(plan: &Plan) -> Result<RequestSource, PlanError> {
    match &plan.scenario {
        Scenario::Steps(steps) => {
            if !(1..=MAX_STEPS).contains(&steps.len()) {
                return Err(PlanError::invalid("the number of steps", steps.len(), "1 to 64"));
            }
            steps.iter().try_for_each(check_step)?;
        }
        Scenario::Transactions { run, items, item_collection, write_collection, reads, writes } => {
            let (reads, writes) = (*reads, *writes);
            transactions::Shape { run, items: *items, item_collection, write_collection, reads, writes }
                .check(&plan.target)?;
        }
    }
    RequestSource::new(plan)
}

fn check_step(step: &Step) -> Result<(), PlanError> {
    if !is_token(&step.method) || step.method == "CONNECT" {
        return Err(PlanError::invalid(
            "the method",
            format!("\"{}\"", step.method),
            "an HTTP method, such as GET",
        ));
    }
    if let Some(path) = &step.path
        && (!path.starts_with('/') || path.bytes().any(|byte| !byte.is_ascii_graphic()))
    {
        let expected = "an absolute path such as /items/1?full=yes, percent-encoded";
        return Err(PlanError::invalid("the path of a step", format!("\"{path}\""), expected));
    }
    if step.body.len() > MAX_REQUEST_BYTES {
        return Err(PlanError::invalid("the body's size", step.body.len(), "at most 64 MiB"));
    }
    let needles = step.checks.iter().filter_map(|check| match check {
        Check::BodyContains(text) => Some(text.len()),
        Check::Status(_) => None,
    });
    for length in needles {
        if !(1..=MAX_NEEDLE_BYTES).contains(&length) {
            return Err(PlanError::invalid("the text that a body is to contain", length, "1 to 1024 bytes"));
        }
    }
    step.headers.iter().try_for_each(|(name, value)| check_header(name, value))
}

fn check_header(name: &str, value: &str) -> Result<(), PlanError> {
    if !is_token(name) {
        return Err(PlanError::invalid(
            "a header's name",
            format!("\"{name}\""),
            "letters, digits and dashes",
        ));
    }
    if RESERVED_HEADERS.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        return Err(PlanError::invalid("a header", name, "another one: scalekit frames its requests itself"));
    }
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(PlanError::invalid("a header's value", format!("{value:?}"), "no control characters"));
    }
    Ok(())
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let special = b"!#$%&'*+-.^_`|~";
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || special.contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::data::Data;
    use super::super::scenario::tests::request;
    use super::super::tests::any_plan;
    use super::*;

    #[test]
    fn broken_requests_are_refused() {
        let data = |csv: &str| Some(Arc::new(Data::parse(csv.as_bytes()).unwrap()));
        let step = |step: Step| Plan { scenario: Scenario::Steps(vec![step]), ..any_plan() };
        let path = |path: &str| step(Step { path: Some(path.into()), ..Step::new("s", "GET") });
        for (plan, part) in [
            (request("", &[], ""), "the method"),
            (request("GE T", &[], ""), "the method"),
            (request("CONNECT", &[], ""), "the method"),
            (request("GET", &[("a b", "c")], ""), "header's name"),
            (request("GET", &[("a", "b\r\nc: d")], ""), "header's value"),
            (request("GET", &[("Content-LENGTH", "3")], ""), "frames its requests itself"),
            (request("POST", &[], "${nope}"), "the body of the step \"request\": `${nope}` is no variable"),
            (path("relative"), "an absolute path"),
            (path("/${data.x}"), "no data file is given"),
            (Plan { data: data("x\na b\n"), ..path("/${data.x}") }, "line 2 of the data file"),
            (
                Plan { data: data("x\nok\n\"a\nb\"\n"), ..request("GET", &[("h", "${data.x}")], "") },
                "line 3 of the data file",
            ),
            (
                step(Step { checks: vec![Check::BodyContains(String::new())], ..Step::new("s", "GET") }),
                "a body is to contain",
            ),
            (Plan { scenario: Scenario::Steps(vec![]), ..any_plan() }, "the number of steps"),
        ] {
            let error = check(&plan).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

//! What each user sends, as bytes. What stays the same is made once, before the start.

use std::io::Write as _;
use std::sync::Arc;

use super::authorization::Authorization;
use super::check::{Check, Needle};
use super::cookies::CookieHeader;
use super::data::Data;
use super::outcome::Acknowledgement;
use super::plan::{Plan, PlanError, Scenario, Step};
use super::random::SplitMix64;
use super::template::{Template, Values};
use super::transactions::{self, Transactions};

const USER_AGENT: &str = concat!("User-Agent: scalekit/", env!("CARGO_PKG_VERSION"), "\r\n");

/// One thread's source of request bytes.
#[derive(Clone, Debug)]
pub(super) struct RequestSource {
    kind: Kind,
    seed: u64,
    users: u32,
    data: Option<Arc<Data>>,
    /// Users keep cookies.
    cookies: bool,
    /// The request that is being rendered.
    buffer: Vec<u8>,
    body: Vec<u8>,
    /// The same with its cookies.
    whole: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Kind {
    Steps(Vec<StepSource>),
    Transactions(Box<Transactions>),
}

/// What one step sends.
#[derive(Clone, Debug)]
struct StepSource {
    request: Request,
    to_head: bool,
    needle: Option<Arc<Needle>>,
}

#[derive(Clone, Debug)]
enum Request {
    /// The same bytes each time.
    Fixed(Vec<u8>),
    Rendered {
        head: Template,
        /// Its length follows the head, if there is one.
        body: Option<Template>,
    },
}

/// What a response is to be read with.
#[derive(Clone, Debug, Default)]
pub(super) struct Expectation {
    /// It answers a HEAD request and has no body, whatever its head says.
    pub(super) to_head: bool,
    /// What its body is searched for.
    pub(super) needle: Option<Arc<Needle>>,
    /// The cookies that it sets are wanted.
    pub(super) cookies: bool,
}

/// Which request of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) iteration: u32,
    pub(super) step: u16,
}

impl RequestSource {
    /// Expects a plan that passed its check.
    pub(super) fn new(plan: &Plan) -> Result<Self, PlanError> {
        let target = &plan.target;
        let kind = match &plan.scenario {
            Scenario::Steps(steps) => {
                let source = |step| StepSource::new(plan, step);
                Kind::Steps(steps.iter().map(source).collect::<Result<_, _>>()?)
            }
            Scenario::Transactions { run, items, item_collection, write_collection, reads, writes } => {
                Kind::Transactions(Box::new(Transactions::new(
                    &head(plan, "POST", &transactions::path(target)),
                    &transactions::Shape {
                        run,
                        items: *items,
                        item_collection,
                        write_collection,
                        reads: *reads,
                        writes: *writes,
                    },
                    plan.seed,
                )))
            }
        };
        Ok(Self {
            kind,
            seed: plan.seed,
            users: plan.users,
            data: plan.data.clone(),
            cookies: plan.cookies,
            buffer: Vec::new(),
            body: Vec::new(),
            whole: Vec::new(),
        })
    }

    /// A user's request. The same arguments give the same bytes, so that an interrupted send can be continued
    /// from a buffer that others have used meanwhile.
    pub(super) fn render(&mut self, user: u32, job: Job) -> &[u8] {
        let steps = match &mut self.kind {
            Kind::Transactions(transactions) => return transactions.render(user, job.iteration),
            Kind::Steps(steps) => steps,
        };
        match &steps[usize::from(job.step)].request {
            Request::Fixed(bytes) => bytes,
            Request::Rendered { head, body } => {
                let Job { iteration, step } = job;
                let values = Values { user, iteration, users: self.users, data: self.data.as_deref() };
                let mut random = SplitMix64::of(self.seed, user, iteration, step);
                let buffer = &mut self.buffer;
                buffer.clear();
                head.render(&values, &mut random, buffer);
                if let Some(body) = body {
                    self.body.clear();
                    body.render(&values, &mut random, &mut self.body);
                    // Writing into memory does not fail.
                    let _ = write!(buffer, "Content-Length: {}\r\n", self.body.len());
                    buffer.extend_from_slice(b"\r\n");
                    buffer.extend_from_slice(&self.body);
                } else {
                    buffer.extend_from_slice(b"\r\n");
                }
                buffer
            }
        }
    }

    /// The same with the user's cookies in it.
    pub(super) fn render_with(&mut self, user: u32, job: Job, cookies: &CookieHeader) -> &[u8] {
        let mut whole = std::mem::take(&mut self.whole);
        whole.clear();
        cookies.apply(self.render(user, job), &mut whole);
        self.whole = whole;
        &self.whole
    }

    /// Whether users keep cookies.
    pub(super) fn keeps_cookies(&self) -> bool {
        self.cookies
    }

    /// What is to be known of a step before its response comes.
    pub(super) fn expectation(&self, step: u16) -> Expectation {
        match &self.kind {
            Kind::Transactions(_) => Expectation { cookies: self.cookies, ..Expectation::default() },
            Kind::Steps(steps) => {
                let step = &steps[usize::from(step)];
                Expectation { to_head: step.to_head, needle: step.needle.clone(), cookies: self.cookies }
            }
        }
    }

    pub(super) fn acknowledgement(&self) -> Acknowledgement {
        match &self.kind {
            Kind::Transactions(_) => Acknowledgement::Accepted,
            Kind::Steps(_) => Acknowledgement::Success,
        }
    }
}

impl StepSource {
    fn new(plan: &Plan, step: &Step) -> Result<Self, PlanError> {
        let (target, data) = (&plan.target, plan.data.as_deref());
        let template = |text: &str, what| {
            Template::parse(text, data).map_err(|source| PlanError::Template {
                step: step.name.clone(),
                what,
                source,
            })
        };
        let path = step.path.as_deref().unwrap_or(&target.path);
        safe_cells(step, &template(path, "path")?, data, "path")?;
        for (_, value) in &step.headers {
            safe_cells(step, &template(value, "header")?, data, "header")?;
        }
        let head = template(&head_of(plan, step, path), "head")?;
        let has_body = !step.body.is_empty() || matches!(step.method.as_str(), "POST" | "PUT" | "PATCH");
        let body = if has_body { Some(template(&step.body, "body")?) } else { None };
        let constant = head.is_constant() && body.as_ref().is_none_or(Template::is_constant);
        let needle = step.checks.iter().find_map(|check| match check {
            Check::BodyContains(text) => Some(Arc::new(Needle::new(text))),
            Check::Status(_) => None,
        });
        let mut source =
            Self { request: Request::Rendered { head, body }, to_head: step.method == "HEAD", needle };
        if constant {
            source.request = Request::Fixed(source.fixed());
        }
        Ok(source)
    }

    /// The bytes of a request without variables.
    fn fixed(&self) -> Vec<u8> {
        let mut once = RequestSource {
            kind: Kind::Steps(vec![self.clone()]),
            seed: 0,
            users: 1,
            data: None,
            cookies: false,
            buffer: Vec::new(),
            body: Vec::new(),
            whole: Vec::new(),
        };
        once.render(0, Job::default()).to_vec()
    }
}

/// A cell with a line break in a header would be a request of its own.
fn safe_cells(
    step: &Step,
    text: &Template,
    data: Option<&Data>,
    what: &'static str,
) -> Result<(), PlanError> {
    let Some(data) = data else { return Ok(()) };
    let is_bad =
        |cell: &str| cell.bytes().any(|byte| byte < 0x20 || byte == 0x7f || (what == "path" && byte == b' '));
    for column in text.columns() {
        if let Some((line, _)) = data.find(column, is_bad) {
            let (step, column) = (step.name.clone(), data.columns()[column].clone());
            return Err(PlanError::Cell { step, what, column, line });
        }
    }
    Ok(())
}

/// The request line and the headers that every request has.
fn head(plan: &Plan, method: &str, path: &str) -> String {
    let (authority, closing) = (&plan.target.authority, closing(plan));
    format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n{USER_AGENT}{}{closing}", authorization(plan))
}

/// Characters that a template takes for its own are none of a token's.
fn authorization(plan: &Plan) -> String {
    let header = |value: &Authorization| format!("Authorization: {}\r\n", value.expose());
    plan.authorization.as_ref().map(header).unwrap_or_default()
}

/// The server closes a connection that is not used again: then the port is free at once, which waits for a minute on
/// the side that closes first.
fn closing(plan: &Plan) -> &'static str {
    if plan.connecting.reuse() { "" } else { "Connection: close\r\n" }
}

/// The request line and the headers, each with its line end; without the length and the empty line.
fn head_of(plan: &Plan, step: &Step, path: &str) -> String {
    let given = |name: &str| step.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    let mut text = format!("{} {path} HTTP/1.1\r\n", step.method);
    if !given("host") {
        text += &format!("Host: {}\r\n", plan.target.authority);
    }
    if !given("user-agent") {
        text += USER_AGENT;
    }
    for (name, value) in &step.headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !given("authorization") {
        text += &authorization(plan);
    }
    if !given("connection") {
        text += closing(plan);
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::connecting::{ConnectOptions, Connecting};
    use super::super::plan::Target;
    use super::super::soundness::check;
    use super::super::tests::any_plan;
    use super::*;

    pub(in super::super) fn request(method: &str, headers: &[(&str, &str)], body: &str) -> Plan {
        let headers = headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let scenario = Scenario::request(method, headers, body);
        Plan { target: Target::parse("http://127.0.0.1:8080/a?b").unwrap(), scenario, ..any_plan() }
    }

    fn rendered(plan: &Plan, user: u32, job: Job) -> String {
        let mut source = check(plan).unwrap();
        String::from_utf8(source.render(user, job).to_vec()).unwrap()
    }

    #[test]
    fn requests_are_framed() {
        let rendered = |plan| rendered(&plan, 3, Job { iteration: 4, step: 0 });
        assert_eq!(
            rendered(request("GET", &[], "")),
            format!("GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n{USER_AGENT}\r\n")
        );
        assert_eq!(
            rendered(request("POST", &[("host", "x"), ("User-Agent", "y"), ("X-A", "b c")], "body")),
            "POST /a?b HTTP/1.1\r\nhost: x\r\nUser-Agent: y\r\nX-A: b c\r\nContent-Length: 4\r\n\r\nbody"
        );
        assert!(rendered(request("PUT", &[], "")).ends_with("Content-Length: 0\r\n\r\n"));
    }

    #[test]
    fn a_token_goes_with_every_request_that_has_none_of_its_own() {
        let authorization = Some(Authorization::bearer("a-token").unwrap());
        let plan = Plan { authorization, ..request("GET", &[], "") };
        let text = rendered(&plan, 0, Job::default());
        assert!(text.contains("\r\nAuthorization: Bearer a-token\r\n"), "{text}");
        let own =
            Plan { authorization: plan.authorization, ..request("GET", &[("authorization", "own")], "") };
        let text = rendered(&own, 0, Job::default());
        assert!(text.contains("\r\nauthorization: own\r\n") && !text.contains("a-token"), "{text}");
    }

    #[test]
    fn a_connection_for_one_request_is_announced_as_such() {
        let plan = request("GET", &[], "");
        let options = ConnectOptions { reuse: false, ..ConnectOptions::default() };
        let connecting = Connecting::new(&options, &plan.target).unwrap();
        let text = rendered(&Plan { connecting, ..plan }, 0, Job::default());
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n"), "{text}");
    }

    #[test]
    fn each_iteration_has_its_own_texts_and_lengths() {
        let mut plan = request("POST", &[("X-User", "${vu}")], "{\"n\":${seq}}");
        plan.users = 10;
        let at = |iteration| rendered(&plan, 3, Job { iteration, step: 0 });
        assert!(at(0).ends_with("X-User: 4\r\nContent-Length: 7\r\n\r\n{\"n\":3}"), "{}", at(0));
        assert!(at(12).ends_with("X-User: 4\r\nContent-Length: 9\r\n\r\n{\"n\":123}"), "{}", at(12));
    }

    #[test]
    fn steps_have_paths_of_their_own() {
        let step = |path: &str| Step { path: Some(path.into()), ..Step::new("s", "GET") };
        let plan = Plan { scenario: Scenario::Steps(vec![step("/one"), step("/two/${iter}")]), ..any_plan() };
        assert!(rendered(&plan, 0, Job { iteration: 5, step: 0 }).starts_with("GET /one HTTP/1.1\r\n"));
        assert!(rendered(&plan, 0, Job { iteration: 5, step: 1 }).starts_with("GET /two/5 HTTP/1.1\r\n"));
    }

    #[test]
    fn only_a_head_request_has_no_body_in_the_response() {
        for (method, to_head) in [("HEAD", true), ("GET", false)] {
            let source = RequestSource::new(&request(method, &[], "")).unwrap();
            assert_eq!(source.expectation(0).to_head, to_head);
        }
    }
}

//! One limit, and how far it is away.

use schemars::JsonSchema;
use serde::Serialize;

/// Users above this share of what there is room for are told of (h).
const NEARLY: f64 = 0.8;

/// What a limit means for the users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "status", rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum Status {
    Ok,
    /// It may hold them up, or is nearly reached.
    Warn,
    WillFail {
        /// The smallest number of users that there is no room for.
        #[serde(rename = "fails_at_users")]
        at_users: u64,
    },
    /// It could not be read; `message` says why.
    Unknown,
}

/// What `value` and `limit` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum Unit {
    Count,
    Bytes,
    /// Pages of memory.
    Pages,
    /// Of a whole, 0 to 1.
    Share,
    /// Operations a second.
    Rate,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Row {
    /// What is looked at.
    pub(crate) check: String,
    #[serde(flatten)]
    pub(crate) status: Status,
    /// Name of the counter, with its object in brackets.
    pub(crate) counter: String,
    /// Now, or while watching; `null`: unknown.
    pub(crate) value: Option<f64>,
    /// The same of what is no number: a policy, a mode.
    pub(crate) setting: Option<String>,
    /// `null`: there is none, or it is unknown.
    pub(crate) limit: Option<f64>,
    pub(crate) unit: Unit,
    /// Whether the threshold, or what a user is said to need, is a rule of thumb.
    pub(crate) heuristic: bool,
    pub(crate) message: String,
    /// Keys of `scalekit tune` that lift it.
    pub(crate) tune: Vec<String>,
    /// Settings of the deployment, the service or its servers that lift it.
    pub(crate) deploy: Vec<String>,
    /// How, in words.
    pub(crate) advice: String,
}

impl Row {
    /// Unknown, until something is known.
    pub(super) fn of(check: &str, counter: impl Into<String>, unit: Unit) -> Self {
        Self {
            check: check.to_owned(),
            status: Status::Unknown,
            counter: counter.into(),
            value: None,
            setting: None,
            limit: None,
            unit,
            heuristic: false,
            message: String::new(),
            tune: Vec::new(),
            deploy: Vec::new(),
            advice: String::new(),
        }
    }

    pub(super) fn lifted_by(mut self, tune: &[&str], deploy: &[&str], advice: &str) -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        (self.tune, self.deploy, self.advice) = (owned(tune), owned(deploy), advice.to_owned());
        self
    }

    pub(super) fn heuristic(mut self) -> Self {
        self.heuristic = true;
        self
    }

    pub(super) fn values(mut self, value: Option<f64>, limit: Option<f64>) -> Self {
        (self.value, self.limit) = (value, limit);
        self
    }

    pub(super) fn counts(self, value: Option<u64>, limit: Option<u64>) -> Self {
        self.values(value.map(number), limit.map(number))
    }

    pub(super) fn setting(mut self, setting: Option<&str>) -> Self {
        // Of a server that may be anyone's.
        self.setting = setting.map(|text| text.chars().filter(|c| !c.is_control()).take(40).collect());
        self
    }

    fn with(mut self, status: Status, message: impl Into<String>) -> Self {
        (self.status, self.message) = (status, message.into());
        self
    }

    pub(super) fn ok(self, message: impl Into<String>) -> Self {
        self.with(Status::Ok, message)
    }

    pub(super) fn warn(self, message: impl Into<String>) -> Self {
        self.with(Status::Warn, message)
    }

    pub(super) fn unknown(self, why: impl Into<String>) -> Self {
        self.with(Status::Unknown, why)
    }

    pub(super) fn fails(self, at_users: u64, message: impl Into<String>) -> Self {
        self.with(Status::WillFail { at_users }, message)
    }

    /// A warning if it holds, else well.
    pub(super) fn warn_if(self, holds: bool, warning: impl Into<String>, fine: impl Into<String>) -> Self {
        if holds { self.warn(warning) } else { self.ok(fine) }
    }

    /// There is room for `free / each` users more than there are now. `what` says what each takes.
    pub(super) fn room(self, free: u64, each: u64, users: u64, what: &str) -> Self {
        let fits = free / each.max(1);
        let message = format!("{what}; room for {fits} users more than now");
        if fits < users {
            self.fails(fits + 1, message)
        } else if number(users) > NEARLY * number(fits) {
            self.warn(format!("{message}, which {users} nearly are"))
        } else {
            self.ok(message)
        }
    }

    /// The names of what lifts it.
    pub(super) fn settings(&self) -> String {
        self.tune.iter().chain(&self.deploy).map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// What lifts it, on one line.
    pub(super) fn lift(&self) -> String {
        let settings = self.settings();
        match (settings.is_empty(), self.advice.is_empty()) {
            (true, _) => self.advice.clone(),
            (false, true) => settings,
            (false, false) => format!("{settings}: {}", self.advice),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes stay below 2^53")]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

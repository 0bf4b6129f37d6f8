//! The threshold grammar, which is k6's (`metrics/thresholds_parser.go`): `method ws* operator ws* float`,
//! where a counter has `count` and `rate`, a gauge `value`, a rate `rate`, a trend `avg`, `min`, `max`, `med`
//! and `p(N)`. Added: `max` for the metrics that say so.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CriteriaError;
use super::metrics::{Kind, METRICS, MetricDefinition, definition};

/// One threshold as given; a report keeps them in this form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    pub(crate) metric: String,
    pub(crate) expression: String,
    /// End the run when it fails.
    #[serde(default)]
    pub(crate) abort_on_fail: bool,
    /// How long into the measured part it is not yet evaluated for that, in ms.
    #[serde(default)]
    pub(crate) delay_abort_eval_ms: u64,
    /// Where it was written, for errors.
    #[serde(default)]
    pub(crate) location: String,
}

/// A threshold that is understood: its metric exists and has its statistic.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Criterion {
    pub(crate) metric: &'static MetricDefinition,
    /// As written, trimmed.
    pub(crate) expression: String,
    pub(crate) statistic: Statistic,
    pub(crate) operator: Operator,
    pub(crate) bound: f64,
    pub(crate) abort_on_fail: bool,
    pub(crate) delay_abort_eval: Duration,
}

/// What of a metric is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Statistic {
    Count,
    Rate,
    Value,
    Avg,
    Min,
    Med,
    Max,
    /// 0 to 100.
    Percentile(f64),
}

impl fmt::Display for Statistic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Count => "count",
            Self::Rate => "rate",
            Self::Value => "value",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Med => "med",
            Self::Max => "max",
            Self::Percentile(percent) => return write!(out, "p({percent})"),
        };
        out.write_str(name)
    }
}

/// How the observed value is compared with the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Equal,
    NotEqual,
}

/// Longer spellings first, so that `>=` is not read as `>`.
const OPERATORS: [(&str, Operator); 7] = [
    ("===", Operator::Equal),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    (">=", Operator::GreaterOrEqual),
    ("<=", Operator::LessOrEqual),
    (">", Operator::Greater),
    ("<", Operator::Less),
];

impl Operator {
    #[expect(clippy::float_cmp, reason = "k6's == compares the figures exactly, and counts are exact")]
    pub(crate) fn holds(self, observed: f64, bound: f64) -> bool {
        match self {
            Self::Greater => observed > bound,
            Self::GreaterOrEqual => observed >= bound,
            Self::Less => observed < bound,
            Self::LessOrEqual => observed <= bound,
            Self::Equal => observed == bound,
            Self::NotEqual => observed != bound,
        }
    }
}

/// Understands all specs, or says what is wrong with the first that cannot be.
pub(crate) fn parse(specs: &[Spec]) -> Result<Vec<Criterion>, CriteriaError> {
    specs.iter().map(criterion).collect()
}

fn criterion(spec: &Spec) -> Result<Criterion, CriteriaError> {
    let fail = |message: String, help: String| CriteriaError {
        location: if spec.location.is_empty() { "criteria".to_owned() } else { spec.location.clone() },
        message: format!("criteria.{}: {message}", spec.metric),
        help,
    };
    let metric = definition(&spec.metric).ok_or_else(|| {
        let known = || METRICS.iter().map(|metric| metric.name);
        let help = match nearest(&spec.metric, known()) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("there are {}", known().collect::<Vec<_>>().join(", ")),
        };
        fail("there is no such metric".to_owned(), help)
    })?;
    let (statistic, operator, bound) =
        expression(&spec.expression).map_err(|(message, help)| fail(message, help))?;
    if !has(metric, statistic) {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let message = format!("`{statistic}` is not a statistic of a {kind}");
        return Err(fail(message, format!("{} has {}", metric.name, statistics(metric))));
    }
    if spec.abort_on_fail && !metric.live {
        let live = METRICS.iter().filter(|metric| metric.live).map(|metric| metric.name);
        return Err(fail(
            "abortOnFail needs a metric that is known while the run goes on, and this one is known after it"
                .to_owned(),
            format!("take abortOnFail away, or set it on one of {}", live.collect::<Vec<_>>().join(", ")),
        ));
    }
    Ok(Criterion {
        metric,
        expression: spec.expression.trim().to_owned(),
        statistic,
        operator,
        bound,
        abort_on_fail: spec.abort_on_fail,
        delay_abort_eval: Duration::from_millis(spec.delay_abort_eval_ms),
    })
}

/// The message and the advice.
type Fault = (String, String);

fn expression(text: &str) -> Result<(Statistic, Operator, f64), Fault> {
    let text = text.trim();
    let shown: String = text.chars().take(80).collect();
    let fault = |expected: &str| {
        (
            format!("expected {expected}, found {shown:?}"),
            "write a statistic, an operator and a number: p(95)<500, rate<0.01, count>=100".to_owned(),
        )
    };
    if text.starts_with("vs ") || text.contains(" vs ") {
        let help = "use `scalekit compare BASE NEW`".to_owned();
        return Err((format!("{shown:?} compares with a baseline, which a single run does not have"), help));
    }
    let split = text.find(['<', '>', '=', '!']).ok_or_else(|| fault("a threshold with an operator"))?;
    let (name, rest) = text.split_at(split);
    let (sign, operator) = OPERATORS
        .iter()
        .find(|(sign, _)| rest.starts_with(sign))
        .ok_or_else(|| fault("one of the operators > >= < <= == === !="))?;
    let bound =
        number(rest[sign.len()..].trim_start()).ok_or_else(|| fault("a plain number after the operator"))?;
    Ok((statistic(name.trim_end(), &fault)?, *operator, bound))
}

fn statistic(name: &str, fault: &impl Fn(&str) -> Fault) -> Result<Statistic, Fault> {
    let simple = match name {
        "count" => Statistic::Count,
        "rate" => Statistic::Rate,
        "value" => Statistic::Value,
        "avg" => Statistic::Avg,
        "min" => Statistic::Min,
        "med" => Statistic::Med,
        "max" => Statistic::Max,
        _ => {
            let Some(percent) = name.strip_prefix("p(").and_then(|rest| rest.strip_suffix(')')) else {
                return Err(fault("one of count, rate, value, avg, min, med, max, p(N)"));
            };
            let percent = number(percent.trim()).ok_or_else(|| fault("a number in p(N)"))?;
            if !(0.0..=100.0).contains(&percent) {
                return Err(fault("N from 0 to 100 in p(N)"));
            }
            return Ok(Statistic::Percentile(percent));
        }
    };
    Ok(simple)
}

/// A float as k6's grammar has it: a sign, digits, a point and digits; no exponent, no `inf`, no unit.
fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |part: &str| !part.is_empty() && part.len() <= 18 && part.bytes().all(|b| b.is_ascii_digit());
    (plain(whole) && plain(fraction)).then(|| text.parse().ok()).flatten()
}

fn has(metric: &MetricDefinition, statistic: Statistic) -> bool {
    match (metric.kind, statistic) {
        (Kind::Counter, Statistic::Count | Statistic::Rate)
        | (Kind::Gauge, Statistic::Value)
        | (Kind::Rate, Statistic::Rate)
        | (
            Kind::Trend,
            Statistic::Avg | Statistic::Min | Statistic::Med | Statistic::Max | Statistic::Percentile(_),
        ) => true,
        (_, Statistic::Max) => metric.has_max,
        _ => false,
    }
}

fn statistics(metric: &MetricDefinition) -> String {
    let list = match metric.kind {
        Kind::Counter => "count, rate",
        Kind::Gauge => "value",
        Kind::Rate => "rate",
        Kind::Trend => return "avg, min, med, max, p(N)".to_owned(),
    };
    if metric.has_max { format!("{list}, max") } else { list.to_owned() }
}

/// The nearest of the known words, if it is near enough to be what was meant.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::osa_distance(word, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len().max(word.len()) / 3 + 1)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(metric: &str, expression: &str) -> Spec {
        Spec {
            metric: metric.to_owned(),
            expression: expression.to_owned(),
            abort_on_fail: false,
            delay_abort_eval_ms: 0,
            location: "x.yaml:3:7".to_owned(),
        }
    }

    #[test]
    fn k6_expressions_parse_unchanged() {
        use Operator::*;
        use Statistic::*;
        for (metric, text, statistic, operator, bound) in [
            ("http_req_duration", "p(95)<500", Percentile(95.0), Less, 500.0),
            ("http_req_duration", "p(95) < 500", Percentile(95.0), Less, 500.0),
            ("http_req_duration", "  p(99.9)\t<=  1.5 ", Percentile(99.9), LessOrEqual, 1.5),
            ("http_req_duration", "p(0)>=0", Percentile(0.0), GreaterOrEqual, 0.0),
            ("http_req_duration", "p(100)<1", Percentile(100.0), Less, 1.0),
            ("http_req_duration", "avg!=3", Avg, NotEqual, 3.0),
            ("http_req_duration", "min>-1", Min, Greater, -1.0),
            ("http_req_duration", "med<2", Med, Less, 2.0),
            ("http_req_duration", "max<2", Max, Less, 2.0),
            ("http_req_failed", "rate<0.01", Rate, Less, 0.01),
            ("http_reqs", "count>=100", Count, GreaterOrEqual, 100.0),
            ("http_reqs", "rate>1000", Rate, Greater, 1000.0),
            ("lost_writes", "count===0", Count, Equal, 0.0),
            ("lost_writes", "count == 0", Count, Equal, 0.0),
            ("vus", "value>5", Value, Greater, 5.0),
            ("db_ops", "max<=100", Max, LessOrEqual, 100.0),
            ("journal_backlog", "max<10", Max, Less, 10.0),
        ] {
            let parsed = parse(&[spec(metric, text)]).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (parsed[0].statistic, parsed[0].operator, parsed[0].bound),
                (statistic, operator, bound)
            );
            assert_eq!(parsed[0].expression, text.trim());
        }
    }

    #[test]
    fn what_cannot_be_evaluated_is_refused_before_anything_starts() {
        for (metric, text, expected) in [
            ("http_req_duraton", "p(95)<5", "did you mean `http_req_duration`?"),
            ("zzz", "p(95)<5", "there are http_req_total_duration, "),
            ("http_req_duration", "rate<5", "`rate` is not a statistic of a trend"),
            ("http_reqs", "p(95)<5", "http_reqs has count, rate"),
            ("http_reqs", "max<5", "`max` is not a statistic of a counter"),
            ("db_ops", "value<5", "db_ops has count, rate, max"),
            ("http_req_failed", "count<5", "`count` is not a statistic of a rate"),
            ("vus", "max<5", "vus has value"),
            ("http_req_duration", "p(101)<5", "N from 0 to 100"),
            ("http_req_duration", "p(-1)<5", "N from 0 to 100"),
            ("http_req_duration", "p(nan)<5", "a number in p(N)"),
            ("http_req_duration", "p95<5", "one of count, rate"),
            ("http_req_duration", "p(95)", "a threshold with an operator"),
            ("http_req_duration", "p(95)=5", "one of the operators"),
            ("http_req_duration", "p(95)<", "a plain number"),
            ("http_req_duration", "p(95)<5ms", "a plain number"),
            ("http_req_duration", "p(95)<1e3", "a plain number"),
            ("http_req_duration", "p(95)<inf", "a plain number"),
            ("http_req_duration", "p(95)<NaN", "a plain number"),
            ("http_req_duration", "p(95)<5 && p(99)<6", "a plain number"),
            ("http_req_duration", "", "a threshold with an operator"),
            ("http_req_duration", "p(95) vs baseline < 10%", "scalekit compare"),
        ] {
            let error = parse(&[spec(metric, text)]).expect_err(text).to_string();
            assert!(error.starts_with("x.yaml:3:7: criteria."), "{error}");
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn only_what_is_known_while_it_runs_can_end_a_run() {
        for metric in METRICS {
            let expression = match metric.kind {
                Kind::Trend => "max<1",
                Kind::Counter => "count<1",
                Kind::Gauge => "value<1",
                Kind::Rate => "rate<1",
            };
            let ending = Spec { abort_on_fail: true, ..spec(metric.name, expression) };
            let ours = metric.name.starts_with("db_") || metric.name.ends_with("_writes");
            let after = ours || metric.name == "journal_backlog";
            match parse(&[ending]) {
                Ok(criteria) => assert!(!after && criteria[0].abort_on_fail, "{}", metric.name),
                Err(error) => {
                    assert!(after, "{}: {error}", metric.name);
                    let error = error.to_string();
                    assert!(
                        error.contains("abortOnFail needs") && error.contains("http_req_failed"),
                        "{error}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,30}") {
            let _ = parse(&[spec("http_req_duration", &text)]);
        }
    }
}

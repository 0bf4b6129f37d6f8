//! What was typed, as the top layer of the profile.

use std::fs::File;
use std::io::Read as _;

use crate::args::{AccessArgs, AgentsArgs, BackendArgs, BenchArgs, ConnectArgs, LoadArgs};
use crate::criteria::{self, Criterion, Spec};
use crate::profile::{
    self, Backend, CriterionSpec, DeployMode, DeployTarget, Headers, HttpVersion, Layer, Profile,
    ProfileError, ScenarioKind, StageText, Stages, Whole, flag_error, quantity_flag,
};

/// Largest body that --body @FILE takes; the profile's bound for a body.
const MAX_BODY_BYTES: u64 = 1 << 20;

pub(super) fn backend(args: &BackendArgs, layer: &mut Layer) -> Result<(), ProfileError> {
    let deploy = layer.deploy.section();
    let backend = match args.backend.as_deref() {
        None => None,
        Some("embedded") => Some(Backend::Embedded),
        Some("redis-mongo") => Some(Backend::RedisMongo),
        Some(other) => {
            return Err(flag_error(
                "--backend",
                format!("expected embedded or redis-mongo, found {other:?}"),
                "name one of the two",
            ));
        }
    };
    let mode = match args.mode.as_deref() {
        None => None,
        Some("write-behind") => Some(DeployMode::WriteBehind),
        Some("direct") => Some(DeployMode::Direct),
        Some(other) => {
            return Err(flag_error(
                "--mode",
                format!("expected write-behind or direct, found {other:?}"),
                "name one of the two",
            ));
        }
    };
    deploy.mode = mode.into();
    deploy.backend = backend.into();
    deploy.redis_url = args.redis_url.clone().into();
    deploy.cache_url = args.cache_url.clone().into();
    deploy.mongo_url = args.mongo_url.clone().into();
    let secrets = &args.secrets;
    deploy.redis_url_file = secrets.redis_url_file.clone().into();
    deploy.cache_url_file = secrets.cache_url_file.clone().into();
    deploy.mongo_url_file = secrets.mongo_url_file.clone().into();
    deploy.backend_ca = secrets.backend_ca.clone().into();
    Ok(())
}

/// As many as there may be machines with agents.
const MAX_PODS: u16 = 64;

/// Where the service runs.
pub(super) fn target(flag: Option<&str>, layer: &mut Layer) -> Result<(), ProfileError> {
    let target = match flag {
        None => None,
        Some("local") => Some(DeployTarget::Local),
        Some("k8s") => Some(DeployTarget::K8s),
        Some(other) => {
            let message = format!("expected local or k8s, found {other:?}");
            return Err(flag_error("--target", message, "name one of the two"));
        }
    };
    layer.deploy.section().target = target.into();
    Ok(())
}

/// Which cluster.
pub(super) fn context(flag: Option<&str>, layer: &mut Layer) {
    if let Some(name) = flag {
        layer.deploy.section().kubernetes.section().context = Some(name.to_owned()).into();
    }
}

/// Who may ask the service.
pub(super) fn access(args: &AccessArgs, layer: &mut Layer) {
    let deploy = layer.deploy.section();
    deploy.tokens_file = args.token_file.clone().into();
    if args.tls_cert.is_some() || args.tls_key.is_some() {
        let tls = deploy.tls.section();
        tls.cert = args.tls_cert.clone().into();
        tls.key = args.tls_key.clone().into();
    }
}

pub(super) fn load(args: &LoadArgs, layer: &mut Layer) -> Result<(), ProfileError> {
    let load = layer.load.section();
    let span =
        |flag, text: &Option<String>| text.as_deref().map(|text| quantity_flag(flag, text)).transpose();
    load.vus = args.vus.map(Whole).into();
    load.duration = span("--duration", &args.duration)?.into();
    load.warmup = span("--warmup", &args.warmup)?.into();
    load.think_time = span("--think", &args.think)?.into();
    load.timeout = span("--timeout", &args.timeout)?.into();
    load.pacing = span("--pacing", &args.pacing)?.into();
    load.rate = args.rate.as_deref().map(|text| quantity_flag("--rate", text)).transpose()?.into();
    load.iterations = args.iterations.map(Whole).into();
    load.seed = args.seed.map(Whole).into();
    load.data = args.data.clone().into();
    load.cookies = args.cookies.then_some(true).into();
    if !args.stages.is_empty() {
        let stage = |text: &String| {
            text.parse::<StageText>()
                .map_err(|error| flag_error("--stage", error.to_string(), "write it in this form"))
        };
        load.stages = Some(Stages(args.stages.iter().map(stage).collect::<Result<_, _>>()?)).into();
    }
    thresholds(&args.thresholds, layer)
}

fn thresholds(flags: &[String], layer: &mut Layer) -> Result<(), ProfileError> {
    for text in flags {
        let CriterionSpec { metric, expression, .. } = profile::threshold_flag(text)?;
        layer.criteria.section().add(&metric, &expression);
    }
    Ok(())
}

/// How users connect.
pub(super) fn connect(args: &ConnectArgs, layer: &mut Layer) -> Result<(), ProfileError> {
    let load = layer.load.section();
    let version = args.http_version.as_deref().map(|text| {
        HttpVersion::parse(text).ok_or_else(|| {
            let message = format!("expected {}, found {text:?}", HttpVersion::EXPECTED);
            flag_error("--http-version", message, "name one of the three")
        })
    });
    load.http = version.transpose()?.into();
    load.connection_reuse = args.no_connection_reuse.then_some(false).into();
    let ips = args.local_ips.as_deref();
    load.local_ips = ips.map(|text| text.split(',').map(str::to_owned).collect()).into();
    if args.ca.is_some() || args.insecure_skip_tls_verify {
        let tls = load.tls.section();
        tls.ca = args.ca.clone().into();
        tls.insecure_skip_verify = args.insecure_skip_tls_verify.then_some(true).into();
    }
    Ok(())
}

/// How many agents a cluster is to run for the load, if a number stands in place of addresses.
pub(super) fn pods(args: &AgentsArgs) -> Result<Option<u16>, ProfileError> {
    let [text] = args.agents.as_slice() else { return Ok(None) };
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(count @ 1..=MAX_PODS) => Ok(Some(count)),
        _ => {
            let message = format!("expected 1 to {MAX_PODS} agents, found {text}");
            Err(flag_error(
                "--agents",
                message,
                "ask for fewer; each takes as many users as its node has room for",
            ))
        }
    }
}

/// Who makes the load.
pub(super) fn agents(args: &AgentsArgs, layer: &mut Layer) {
    if !args.agents.is_empty() {
        layer.load.section().agents = Some(args.agents.clone()).into();
    }
}

/// A URL of the user's own is one request over and over.
pub(super) fn request(args: &BenchArgs, layer: &mut Layer) -> Result<(), ProfileError> {
    let load = layer.load.section();
    load.url = args.url.clone().into();
    if args.url.is_some() {
        load.scenario = Some(ScenarioKind::Request).into();
    }
    let request = load.request.section();
    request.method = args.method.clone().into();
    if !args.headers.is_empty() {
        let headers = args.headers.iter().map(|text| header(text)).collect::<Result<_, _>>()?;
        request.headers = Some(Headers(headers)).into();
    }
    request.body = args.body.as_deref().map(body).transpose()?.into();
    Ok(())
}

fn header(text: &str) -> Result<(String, String), ProfileError> {
    let (name, value) =
        text.split_once(':').filter(|(name, _)| !name.trim().is_empty()).ok_or_else(|| {
            flag_error(
                "--header",
                format!("expected 'NAME: VALUE', found {text:?}"),
                "write, for example, 'Accept: application/json'",
            )
        })?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn body(text: &str) -> Result<String, ProfileError> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let mut body = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BODY_BYTES + 1).read_to_string(&mut body));
    read.map_err(|error| {
        flag_error("--body", format!("cannot read {path}: {error}"), "name a readable text file")
    })?;
    if body.len() as u64 > MAX_BODY_BYTES {
        return Err(flag_error(
            "--body",
            format!("{path} is larger than {MAX_BODY_BYTES} bytes"),
            "name a smaller file",
        ));
    }
    Ok(body)
}

/// The profile's criteria, understood; a typo shows before anything starts.
pub(super) fn criteria_of(profile: &Profile) -> Result<(Vec<Spec>, Vec<Criterion>), criteria::CriteriaError> {
    let specs: Vec<Spec> = profile.criteria.iter().map(spec).collect();
    let criteria = criteria::parse(&specs)?;
    Ok((specs, criteria))
}

pub(super) fn spec(spec: &CriterionSpec) -> Spec {
    Spec {
        metric: spec.metric.clone(),
        expression: spec.expression.clone(),
        abort_on_fail: spec.abort_on_fail,
        delay_abort_eval_ms: u64::try_from(spec.delay_abort_eval.as_millis()).unwrap_or(u64::MAX),
        location: spec.location.clone(),
    }
}

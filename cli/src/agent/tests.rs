//! Agents over real sockets: what they refuse, and a load that two of them make together.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::client::AgentError;
use super::protocol::{VERSION, VERSION_HEADER};
use super::{Crowd, Settings, Token, serve};
use crate::load::{
    Arrivals, ConnectOptions, Connecting, Fate, Plan, Running, Scenario, Share, Target, Tick, Ticks, Watch,
};

const TOKEN: &str = "0123456789abcdef";

/// An agent in this process; it ends with the runtime.
async fn agent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let settings = Settings { name: "here".into(), token: Some(Token::parse(TOKEN).unwrap()) };
    tokio::spawn(serve(listener, settings, CancellationToken::new()));
    address
}

/// A server that answers whatever comes in one piece.
async fn target() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn plan(target: SocketAddr) -> Plan {
    let target = Target::parse(&format!("http://{target}/")).unwrap();
    Plan {
        connecting: Connecting::new(&ConnectOptions::default(), &target).unwrap(),
        target,
        scenario: Scenario::request("GET", vec![], ""),
        users: 5,
        share: Share::ALL,
        arrivals: Arrivals::Think,
        stages: Vec::new(),
        iterations: None,
        seed: 1,
        data: None,
        authorization: None,
        cookies: false,
        think_time: Duration::from_millis(20),
        warmup: Duration::from_millis(300),
        duration: Duration::from_millis(1500),
        timeout: Duration::from_secs(20),
        threads: 1,
    }
}

async fn ask(agent: SocketAddr, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let request = reqwest::Client::new().request(method, format!("http://{agent}/v1/{path}"));
    let request = request.header(VERSION_HEADER, VERSION).bearer_auth(TOKEN);
    let response = request.body(body.to_string()).send().await.unwrap();
    (response.status(), response.json().await.unwrap_or_default())
}

async fn state(agent: SocketAddr) -> Value {
    ask(agent, Method::GET, "agent", Value::Null).await.1["state"].clone()
}

async fn until_idle(agent: SocketAddr) {
    while state(agent).await != "idle" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn strangers_and_other_versions_are_turned_away_whatever_they_ask() {
    let agent = agent().await;
    let http = reqwest::Client::new();
    for path in ["agent", "clock", "runs/x", "nonsense"] {
        let url = format!("http://{agent}/v1/{path}");
        for (token, version, expected, detail) in [
            ("wrong-wrong-wrong", VERSION, 401, "--token-file"),
            (TOKEN, "0.0.0/0", 412, "was asked in 0.0.0/0"),
            ("wrong-wrong-wrong", "0.0.0/0", 401, "--token-file"),
        ] {
            let request = http.get(&url).bearer_auth(token).header(VERSION_HEADER, version);
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), expected, "{path}");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert_eq!(response.headers()[VERSION_HEADER], VERSION);
            assert_eq!(response.headers().contains_key("www-authenticate"), expected == 401);
            let problem: Value = response.json().await.unwrap();
            assert_eq!(problem["status"], expected);
            assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
        }
        let bare = http.get(&url).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(bare.status(), 412, "a request needs the version's header");
    }
}

#[tokio::test]
async fn what_makes_no_run_is_refused_and_leaves_the_agent_idle() {
    let (agent, target) = (agent().await, target().await);
    let sound = json!({ "plan": plan(target), "threads": 1, "watched": null });
    let spoilt = |path: &str, value: Value| {
        let mut spoilt = sound.clone();
        *spoilt.pointer_mut(path).unwrap() = value;
        spoilt
    };
    for (body, status, detail) in [
        (json!("nonsense"), 400, "cannot be understood"),
        (json!({ "plan": {} }), 400, "cannot be understood"),
        (spoilt("/plan/users", json!(-1)), 400, "cannot be understood"),
        (spoilt("/plan/users", json!(0)), 422, "the number of users is 0"),
        (spoilt("/plan/share/step", json!(0)), 422, "the share of the users"),
        (spoilt("/plan/share/step", json!(9)), 201, ""),
        (spoilt("/plan/target/url", json!("ftp://x/")), 422, "its scheme is neither http nor https"),
        (spoilt("/plan/users", json!(900_000)), 422, "900000 users need"),
        (spoilt("/threads", json!(5000)), 422, "generator threads is 5000"),
        (spoilt("/watched", json!(vec!["x"; 33])), 422, "33 trends to watch"),
    ] {
        let (got, answer) = ask(agent, Method::POST, "runs", body).await;
        assert_eq!(got, status, "{answer}");
        match answer["run"].as_str() {
            Some(run) => {
                assert_eq!(ask(agent, Method::DELETE, &format!("runs/{run}"), Value::Null).await.0, 204);
            }
            None => assert!(answer["detail"].as_str().unwrap().contains(detail), "{answer}"),
        }
        assert_eq!(state(agent).await, "idle");
    }
    // More than any plan is; the agent may hang up before all of it is sent.
    let request = reqwest::Client::new().post(format!("http://{agent}/v1/runs"));
    let request = request.header(VERSION_HEADER, VERSION).bearer_auth(TOKEN).body(vec![b' '; 65 << 20]);
    assert!(request.send().await.map_or(true, |response| response.status() == 413));
    assert_eq!(state(agent).await, "idle");
}

#[tokio::test]
async fn a_run_goes_one_way_only() {
    let (agent, target) = (agent().await, target().await);
    let assignment = json!({ "plan": plan(target), "threads": null });
    let (status, assigned) = ask(agent, Method::POST, "runs", assignment.clone()).await;
    assert_eq!(status, 201, "{assigned}");
    assert!(assigned["threads"].as_u64().unwrap() >= 1);
    let run = format!("runs/{}", assigned["run"].as_str().unwrap());
    let path = |end: &str| format!("{run}{end}");
    assert_eq!(state(agent).await, "busy");
    let (status, problem) = ask(agent, Method::POST, "runs", assignment).await;
    assert_eq!(status, 409);
    assert!(problem["detail"].as_str().unwrap().contains("busy"), "{problem}");
    assert_eq!(ask(agent, Method::GET, "runs/other", Value::Null).await.0, 404);
    assert_eq!(ask(agent, Method::GET, &path("?from=x"), Value::Null).await.0, 400);
    assert_eq!(ask(agent, Method::GET, &path("/recording"), Value::Null).await.0, 409);
    // Too late, then in time, then again.
    let now = ask(agent, Method::GET, "clock", Value::Null).await.1["monotonic_nanos"].as_i64().unwrap();
    for (at, status) in [(now, 409), (now + 3_600_000_000_000, 204), (now + 3_600_000_000_000, 409)] {
        assert_eq!(ask(agent, Method::POST, &path("/start"), json!({ "at_nanos": at })).await.0, status);
    }
    // Stopped before it began, it has measured nothing, and says so.
    assert_eq!(ask(agent, Method::POST, &path("/stop"), Value::Null).await.0, 204);
    let mut progress = Value::Null;
    while progress["stage"] != "done" {
        progress = ask(agent, Method::GET, &run, Value::Null).await.1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let recording = ask(agent, Method::GET, &path("/recording"), Value::Null).await.1;
    assert_eq!((&recording["requests"], &recording["interrupted"]), (&json!(0), &json!(true)));
    assert_eq!(ask(agent, Method::DELETE, &run, Value::Null).await.0, 204);
    until_idle(agent).await;
    assert_eq!(ask(agent, Method::GET, &run, Value::Null).await.0, 404);
}

#[tokio::test]
async fn two_agents_make_one_load() {
    let (agents, target) = ([agent().await, agent().await], target().await);
    let addresses = agents.map(|agent| agent.to_string());
    let addresses = addresses.each_ref().map(String::as_str);
    let token = Token::parse(TOKEN).unwrap();
    let crowd = Crowd::gather(&addresses, Some(&token)).await.unwrap();
    assert_eq!(crowd.size(), 2);
    let (mut ticks, plan) = (Vec::new(), plan(target));
    let stop = AtomicBool::new(false);
    let conducted =
        crowd.conduct(&plan, Some(1), &stop, &mut Ticks(&mut |tick| ticks.push(*tick)), None).await.unwrap();
    let whole = &conducted.recording;
    assert_eq!((conducted.threads, whole.users_requested, whole.users_achieved), (2, 5, 5));
    assert_eq!(conducted.agents.iter().map(|agent| agent.users).collect::<Vec<_>>(), [3, 2]);
    let parts: Vec<_> = conducted.agents.iter().map(|agent| agent.recording.as_ref().unwrap()).collect();
    assert!(parts.iter().all(|part| part.requests > 0 && !part.interrupted));
    assert_eq!(whole.requests, parts.iter().map(|part| part.requests).sum::<u64>());
    assert_eq!(whole.trends.total.len(), whole.requests);
    assert_eq!(whole.series.iter().map(|second| second.requests).sum::<u64>(), whole.requests);
    // Every user is somebody's, and the warm-up is in the ledger, too.
    assert!((0..5).all(|user| whole.ledger.runs(user).any(|(fate, _)| fate == Fate::Acknowledged)));
    assert!(whole.ledger.iter().count() as u64 > whole.requests);
    assert!(ticks.iter().any(|tick| tick.users == 5 && tick.requests > 0), "{ticks:?}");
    for agent in &conducted.agents {
        assert_eq!((agent.name.as_str(), &agent.problem), ("here", &None));
        // Both clocks are one clock here.
        let uncertainty = agent.clock_uncertainty.as_nanos() + 50_000_000;
        assert!(u128::from(agent.clock_offset_nanos.unsigned_abs()) <= uncertainty, "{agent:?}");
    }
    for agent in agents {
        until_idle(agent).await;
    }
}

#[tokio::test]
async fn what_is_watched_is_the_union_and_a_break_cuts_all_short() {
    let (agents, target) = ([agent().await, agent().await], target().await);
    let addresses = agents.map(|agent| agent.to_string());
    let addresses = addresses.each_ref().map(String::as_str);
    let crowd = Crowd::gather(&addresses, Some(&Token::parse(TOKEN).unwrap())).await.unwrap();
    // Far longer than the test may take: only the judge ends it.
    let plan = Plan { duration: Duration::from_secs(3600), ..plan(target) };
    let mut seen = Vec::new();
    let mut judge = |running: &Running| {
        seen.push(running.clone());
        // Of both, to see the union.
        if running.users_requested == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let watch = Watch { trends: &["http_req_waiting"], judge: &mut judge };
    let stop = AtomicBool::new(false);
    let mut ignore = |_: &Tick| {};
    let mut ticks = Ticks(&mut ignore);
    let conducting = crowd.conduct(&plan, Some(1), &stop, &mut ticks, Some(watch));
    let conducted = tokio::time::timeout(Duration::from_secs(60), conducting).await.unwrap().unwrap();
    let whole = &conducted.recording;
    assert_eq!((whole.cut_short, whole.interrupted), (true, false));
    assert!(conducted.agents.iter().all(|agent| agent.problem.is_none()), "{:?}", conducted.agents);
    let union = seen.last().unwrap();
    assert!(union.requests > 0 && union.requests <= whole.requests, "{} {}", union.requests, whole.requests);
    assert!(union.measured >= Duration::from_secs(1) && union.measured <= whole.measured);
    let [told] = &union.trends[..] else { panic!("{:?}", union.trends) };
    assert_eq!((told.name.as_ref(), told.trend.len()), ("http_req_waiting", union.requests));
    for agent in agents {
        until_idle(agent).await;
    }
}

#[tokio::test]
async fn running_figures_are_told_once_and_only_if_they_are_watched() {
    let (agent, target) = (agent().await, target().await);
    let plan = Plan { duration: Duration::from_secs(3600), ..plan(target) };
    for watched in [json!([]), json!(null)] {
        let assignment = json!({ "plan": plan, "threads": 1, "watched": watched });
        let run = ask(agent, Method::POST, "runs", assignment).await.1["run"].as_str().unwrap().to_owned();
        let run = format!("runs/{run}");
        let now = ask(agent, Method::GET, "clock", Value::Null).await.1["monotonic_nanos"].as_i64().unwrap();
        let start = json!({ "at_nanos": now + 1_000_000_000 });
        assert_eq!(ask(agent, Method::POST, &format!("{run}/start"), start).await.0, 204);
        let progress =
            async |query: &str| ask(agent, Method::GET, &format!("{run}{query}"), Value::Null).await.1;
        // Two seconds more than the first judgement needs.
        let mut latest = Value::Null;
        while latest["tick"]["elapsed"]["secs"].as_u64() < Some(4) {
            latest = progress("").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let figures = &latest["figures"];
        assert_eq!(figures.is_object(), watched.is_array(), "{watched}: {figures}");
        if let Some(number) = figures["number"].as_u64() {
            assert!(figures["running"]["requests"].as_u64().unwrap() > 0, "{figures}");
            assert_eq!(figures["running"]["trends"], json!([]));
            assert!(progress(&format!("?figures={}", number + 9)).await["figures"].is_null());
        }
        assert_eq!(ask(agent, Method::DELETE, &run, Value::Null).await.0, 204);
    }
}

#[tokio::test]
async fn one_agent_that_refuses_sets_the_others_free() {
    let (agents, target) = ([agent().await, agent().await], target().await);
    let addresses = agents.map(|agent| agent.to_string());
    let addresses = addresses.each_ref().map(String::as_str);
    let crowd = Crowd::gather(&addresses, Some(&Token::parse(TOKEN).unwrap())).await.unwrap();
    let assignment = json!({ "plan": plan(target), "threads": 1 });
    assert_eq!(ask(agents[1], Method::POST, "runs", assignment).await.0, 201);
    let error = crowd
        .conduct(&plan(target), None, &AtomicBool::new(false), &mut Ticks(&mut |_| {}), None)
        .await
        .unwrap_err();
    assert!(matches!(&error, AgentError::Refused { address, .. } if *address == addresses[1]), "{error}");
    until_idle(agents[0]).await;
    assert_eq!(state(agents[1]).await, "busy");
}

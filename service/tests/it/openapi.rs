//! `/openapi.json` against the service that serves it: the document itself, its routes, and real answers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use scalekit_service::contract::{MAX_COLLECTION_BYTES, MAX_ID_BYTES, MAX_OPERATIONS_PER_REQUEST};
use serde_json::{Value, json};

use crate::harness::{Answer, Harness, Kind, Options, PATIENCE, answer, eventually, on_both};

on_both!(the_document_is_sound, what_is_documented_is_routed_and_nothing_else, answers_are_as_documented);

const METHODS: [&str; 7] = ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// The document of a running service.
struct Contract(Value);

impl Contract {
    async fn of(harness: &Harness) -> Self {
        let answer = harness.get("/openapi.json").await.expect(200);
        assert_eq!(answer.header("content-type"), "application/json");
        Self(answer.json())
    }

    /// Template, method and operation.
    fn operations(&self) -> Vec<(&str, String, &Value)> {
        let paths = self.0["paths"].as_object().unwrap();
        let operations = paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (path.as_str(), method.to_ascii_uppercase(), operation))
        });
        operations.filter(|(_, method, _)| METHODS.contains(&method.as_str())).collect()
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.0.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
            None => value,
        }
    }

    /// Holds an answer against the document: status, type and form of the body, and the headers it must have.
    #[track_caller]
    fn check(&self, method: &str, template: &str, answer: &Answer) {
        let what = format!("{method} {template}: {} {}", answer.status, answer.text);
        let operation = &self.0["paths"][template][method.to_ascii_lowercase()];
        let response = self.resolve(&operation["responses"][answer.status.to_string()]);
        let content = response["content"].as_object().unwrap_or_else(|| panic!("undocumented: {what}"));
        let (kind, content) = content.iter().next().unwrap();
        // The document says text/plain; what text it is need not be said there.
        assert_eq!(
            answer.header("content-type").trim_end_matches("; charset=utf-8"),
            kind.trim_end_matches("; charset=utf-8"),
            "{what}"
        );
        for (name, _) in response["headers"].as_object().into_iter().flatten() {
            assert!(answer.header(name).parse::<u32>().is_ok_and(|seconds| seconds > 0), "{name}: {what}");
        }
        if kind.ends_with("json") {
            let mut schema = content["schema"].clone();
            schema["components"] = self.0["components"].clone();
            let validator = jsonschema::draft202012::new(&schema).unwrap();
            let body = answer.json();
            let errors: Vec<String> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{what}\n{errors:?}");
        }
    }
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

async fn the_document_is_sound(kind: Kind) {
    let contract = Contract::of(&Harness::start(kind).await).await;
    let document = &contract.0;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    oas3::from_json(document.to_string()).expect("a reader of OpenAPI 3.1 takes it");
    let mut found = Vec::new();
    references(document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut ids = BTreeSet::new();
    for (path, method, operation) in contract.operations() {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{id} twice");
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{method} {path}");
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let declared: BTreeSet<&str> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let in_template: BTreeSet<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        assert_eq!(declared, in_template, "{method} {path}");
        let takes_key = parameters.iter().any(|parameter| parameter["name"] == "Idempotency-Key");
        assert_eq!(
            takes_key,
            // A replay is known by its letter.
            operation["responses"].get("202").is_some() && !path.starts_with("/v1/dead-letters"),
            "{method} {path}: writes, and only they"
        );
    }
    for tag in document["tags"].as_array().unwrap() {
        let used = contract.operations().iter().any(|(_, _, operation)| operation["tags"][0] == tag["name"]);
        assert!(used, "{tag}");
    }
    // What the macros can only be given as literals.
    let schemas = &document["components"]["schemas"];
    for list in ["reads", "writes"] {
        assert_eq!(schemas["Transaction"]["properties"][list]["maxItems"], MAX_OPERATIONS_PER_REQUEST);
    }
    for kind in ["Read", "Write"] {
        assert_eq!(schemas[kind]["properties"]["collection"]["maxLength"], MAX_COLLECTION_BYTES, "{kind}");
        assert_eq!(schemas[kind]["properties"]["id"]["maxLength"], MAX_ID_BYTES, "{kind}");
    }
    let parameters = contract
        .operations()
        .into_iter()
        .flat_map(|(_, _, operation)| operation["parameters"].as_array().cloned().unwrap_or_default());
    for parameter in parameters {
        let longest = match parameter["name"].as_str().unwrap() {
            "collection" => MAX_COLLECTION_BYTES,
            "id" => MAX_ID_BYTES,
            "Idempotency-Key" => MAX_ID_BYTES - 8,
            _ => continue,
        };
        assert_eq!(parameter["schema"]["maxLength"], longest, "{parameter}");
    }
}

async fn what_is_documented_is_routed_and_nothing_else(kind: Kind) {
    let harness = Harness::start(kind).await;
    let contract = Contract::of(&harness).await;
    let mut by_path: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (path, method, _) in contract.operations() {
        by_path.entry(path).or_default().insert(method);
    }
    assert!(by_path.len() >= 10, "{by_path:?}");
    for (template, documented) in by_path {
        let path =
            template.replace("{collection}", "items").replace("{id}", "1").replace("{write_id}", "0.1.0.0");
        for method in METHODS {
            let answer = harness.send(method, &path, "{}").await;
            let is_routed = answer.status != 405 && !answer.text.contains("there is no route");
            assert_eq!(is_routed, documented.contains(method), "{method} {template}: {}", answer.text);
            if !is_routed {
                // The router's own word on what it would take here.
                let allowed: BTreeSet<String> = answer
                    .header("allow")
                    .split(',')
                    .map(str::to_owned)
                    .filter(|name| name != "HEAD")
                    .collect();
                assert_eq!(allowed, documented, "{template}");
            }
        }
    }
}

async fn answers_are_as_documented(kind: Kind) {
    let options = Options { max_body_bytes: 4096, ..Options::default() };
    let harness = Harness::with(kind, options).await;
    let contract = Contract::of(&harness).await;
    let accepted = harness.write("PUT", "/v1/items/1", r#"{"n":1,"nested":{"list":[null]}}"#).await;
    let refused = harness
        .write(
            "POST",
            "/v1/transactions",
            &json!({"writes": [
                {"collection": "items", "op": "insert", "id": "1", "document": {}},
            ]})
            .to_string(),
        )
        .await;
    harness.drained().await;
    let stored = format!("/v1/writes/{}", accepted["write_id"].as_str().unwrap());
    let dead = format!("/v1/writes/{}", refused["write_id"].as_str().unwrap());
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(5000));
    let both = json!({
        "reads": [{"collection": "items", "id": "1"}, {"collection": "items", "id": "absent"}],
        "writes": [{"collection": "items", "op": "delete", "id": "9"}],
    })
    .to_string();
    let collection = "/v1/{collection}";
    let document = "/v1/{collection}/{id}";
    let writes = "/v1/writes/{write_id}";
    let audit = "/v1/audit/{collection}";
    let letters = "/v1/dead-letters";
    let letter = "/v1/dead-letters/{id}";
    let replay = "/v1/dead-letters/{id}/replay";
    let kept = format!("{letters}/{}.0", refused["write_id"].as_str().unwrap());
    let replayed = format!("{kept}/replay");
    let transactions = "/v1/transactions";
    let table = [
        ("POST", transactions, transactions, both.as_str(), 202),
        ("POST", transactions, transactions, r#"{"reads":[{"collection":"items","id":"1"}]}"#, 200),
        ("POST", transactions, transactions, "{", 400),
        ("POST", transactions, transactions, r#"{"writes":[{}]}"#, 422),
        ("POST", transactions, transactions, &large, 413),
        ("POST", collection, "/v1/items", "{}", 202),
        ("POST", collection, "/v1/items", "{", 400),
        ("POST", collection, "/v1/items", &large, 413),
        ("POST", collection, "/v1/items", "[]", 422),
        ("PUT", document, "/v1/items/2", "{}", 202),
        ("PUT", document, "/v1/items/2", "", 400),
        ("PUT", document, "/v1/items/2", "7", 422),
        ("PATCH", document, "/v1/items/2", r#"{"a":null}"#, 202),
        ("PATCH", document, "/v1/items/2", r#"{"a.b":1}"#, 422),
        ("DELETE", document, "/v1/items/2", "", 202),
        ("DELETE", document, "/v1/items/%ff", "", 400),
        ("GET", document, "/v1/items/1", "", 200),
        ("GET", document, "/v1/items/%ff", "", 400),
        ("GET", document, "/v1/items/absent", "", 404),
        ("GET", document, "/v1/a$b/1", "", 422),
        ("GET", writes, &stored, "", 200),
        ("GET", writes, &dead, "", 200),
        ("GET", writes, "/v1/writes/nonsense", "", 400),
        ("GET", writes, "/v1/writes/7.1.0.0", "", 404),
        ("GET", audit, "/v1/audit/items", "", 200),
        ("GET", audit, "/v1/audit/items?x=1", "", 400),
        ("GET", audit, "/v1/audit/a$b", "", 422),
        ("GET", letters, "/v1/dead-letters", "", 200),
        ("GET", letters, "/v1/dead-letters?limit=0", "", 400),
        ("GET", letters, "/v1/dead-letters?collection=a$b", "", 422),
        ("GET", letter, &kept, "", 200),
        ("GET", letter, "/v1/dead-letters/none", "", 404),
        ("POST", replay, &replayed, "", 202),
        ("POST", replay, "/v1/dead-letters/none/replay", "", 404),
        ("POST", replay, "/v1/dead-letters/none/replay?x=1", "", 400),
        ("DELETE", letter, "/v1/dead-letters/none", "", 404),
        ("GET", "/v1/stats", "/v1/stats", "", 200),
        ("GET", "/healthz", "/healthz", "", 200),
        ("GET", "/readyz", "/readyz", "", 200),
        ("GET", "/metrics", "/metrics", "", 200),
        ("GET", "/openapi.json", "/openapi.json", "", 200),
    ];
    for (method, template, path, body, status) in table {
        let answer = harness.send(method, path, body).await.expect(status);
        contract.check(method, template, &answer);
    }
    let tested: BTreeSet<_> =
        table.iter().map(|(method, template, ..)| (*template, (*method).to_owned())).collect();
    let documented: BTreeSet<_> =
        contract.operations().into_iter().map(|(template, method, _)| (template, method)).collect();
    assert_eq!(tested, documented, "each operation has a row");
    // The letter was put back, and is refused again.
    harness.drained().await;
    assert_eq!(harness.get(&dead).await.json()["status"], "dead");
    let dropped = harness.send("DELETE", &kept, "").await.expect(200);
    contract.check("DELETE", letter, &dropped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_are_as_documented() {
    let harness = Harness::start(Kind::RedisMongo).await;
    let contract = Contract::of(&harness).await;
    // It answers nothing, and comes back.
    harness.signal_redis(nix::sys::signal::Signal::SIGSTOP);
    let stuck = answer(harness.request(reqwest::Method::PUT, "/v1/items/1").body("{}")).await;
    harness.signal_redis(nix::sys::signal::Signal::SIGCONT);
    contract.check("PUT", "/v1/{collection}/{id}", &stuck.expect(504));
    harness.kill_redis();
    let not_ready = eventually("it notices", async || {
        let ready = harness.get("/readyz").await;
        (ready.status == 503).then_some(ready)
    })
    .await;
    contract.check("GET", "/readyz", &not_ready);
    let refused = harness.send("PUT", "/v1/items/1", "{}").await.expect(503);
    contract.check("PUT", "/v1/{collection}/{id}", &refused);
    let unknown = harness.get("/v1/writes/0.1.0.0").await.expect(503);
    contract.check("GET", "/v1/writes/{write_id}", &unknown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_is_answered_as_documented() {
    let options = Options { request_timeout: std::time::Duration::from_millis(300), ..Options::default() };
    let harness = Harness::with(Kind::Embedded, options).await;
    let contract = Contract::of(&harness).await;
    let address = harness.api.address;
    let text = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = "PUT /v1/items/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{";
        stream.write_all(head.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
    .await
    .unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("content-type", "application/problem+json".parse().unwrap());
    assert!(head.to_ascii_lowercase().contains("content-type: application/problem+json"), "{head}");
    let answer = Answer { status: head[9..12].parse().unwrap(), headers, text: body.to_owned() };
    contract.check("PUT", "/v1/{collection}/{id}", &answer.expect(408));
}

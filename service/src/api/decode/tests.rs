//! Bodies that become writes, and bodies that are refused.

use super::*;
use axum::response::IntoResponse as _;
use bson::doc;

fn status(body: &str) -> u16 {
    transaction(body.as_bytes(), &OperationId::new("op".into()))
        .map_or_else(|error| error.into_response().status().as_u16(), |_| 200)
}

#[test]
fn a_transaction_becomes_keys_and_changes() {
    let body = r#"{"reads":[{"collection":"items","id":"7"}],"writes":[
        {"collection":"orders","op":"insert","document":{"n":1, "t":"ü"}},
        {"collection":"orders","op":"delete","id":"9"}]}"#;
    let decoded = transaction(body.as_bytes(), &OperationId::new("op".into())).unwrap();
    assert_eq!(decoded.reads, [DocumentKey::new("items", "7")]);
    let [insert, delete] = &decoded.writes[..] else { panic!("two writes") };
    assert_eq!(
        (&insert.key, &insert.change),
        (&DocumentKey::new("orders", "op-00"), &Change::insert(doc! {"n": 1, "t": "ü"}))
    );
    assert_eq!(insert.json.as_deref(), Some(r#"{"n":1, "t":"ü"}"#.as_bytes()));
    assert!(insert.is_new && !delete.is_new);
    assert_eq!(delete.change, Change::Delete);
}

#[test]
fn what_is_read_in_one_pass_is_what_serde_reads() {
    let reads = r#""reads":[{"collection":"a","id":"1"},{"id":"2","collection":"b"}]"#;
    let writes = r#""writes" : [
        {"collection":"a","op":"insert","document":{"n":1, "f":12.50}},
        {"document":{"x":[1,{"y":null}]},"op":"replace","id":"7","collection":"a"},
        {"collection":"a","op":"merge","id":"7","document":{"z":null}},
        {"collection":"a","op":"insert","id":"ü","document":{}},
        {"collection":"a","op":"delete","id":"9"}]"#;
    for name in ["op", ""] {
        let op_id = OperationId::new(name.into());
        for body in [
            format!("{{{reads},{writes}}}"),
            format!(" {{ {writes},{reads} }} "),
            format!("{{{reads}}}"),
            "{}".into(),
        ] {
            let plain = plain::transaction(body.as_bytes(), &op_id).unwrap();
            assert_eq!(plain, any_transaction(body.as_bytes(), &op_id).unwrap(), "{body}");
        }
    }
    let unnamed = transaction(format!("{{{writes}}}").as_bytes(), &OperationId::new(String::new())).unwrap();
    let first = &unnamed.writes[0];
    assert_eq!((first.key.id(), first.is_new, &first.json), ("", true, &None), "the journal names it");
    assert_eq!(unnamed.writes[1].json.as_deref(), Some(&br#"{"x":[1,{"y":null}]}"#[..]));
}

#[test]
fn what_is_not_json_is_400_and_what_breaks_the_contract_is_422() {
    let large = |bytes| {
        let text = "x".repeat(bytes);
        format!(r#"{{"writes":[{{"collection":"a","op":"insert","document":{{"t":"{text}"}}}}]}}"#)
    };
    let many = |what: &str, one: &str| format!(r#"{{"{what}":[{}]}}"#, vec![one; 65].join(","));
    for (body, expected) in [
        ("{}".to_owned(), 200),
        ("{".into(), 400),
        ("".into(), 400),
        (r#"{"reads":[}"#.into(), 400),
        ("[]".into(), 422),
        (r#"{"read":[]}"#.into(), 422),
        (r#"{"writes":[{"collection":"a","op":"upsert","document":{}}]}"#.into(), 422),
        (r#"{"writes":[{"collection":"a","op":"replace","document":{}}]}"#.into(), 422),
        (r#"{"writes":[{"collection":"a","op":"insert"}]}"#.into(), 422),
        (r#"{"writes":[{"collection":"a","op":"insert","document":[1]}]}"#.into(), 422),
        (r#"{"writes":[{"collection":"a","op":"insert","document":{"_sk":1}}]}"#.into(), 422),
        (r#"{"writes":[{"collection":"a","op":"insert","document":{"_id":1}}]}"#.into(), 422),
        (r#"{"writes":[{"collection":"a","op":"insert","document":{"n":{"$date":0},"_id":1}}]}"#.into(), 422),
        (r#"{"writes":[{"collection":"a","op":"insert","document":{"n":{"_id":1}}}]}"#.into(), 200),
        (r#"{"writes":[{"collection":"a","op":"merge","id":"1","document":{"a.b":1}}]}"#.into(), 422),
        (r#"{"writes":[{"collection":"a","op":"merge","id":"1","document":{"":1}}]}"#.into(), 422),
        (r#"{"writes":[{"collection":"a","op":"replace","id":"1","document":{"a.b":1}}]}"#.into(), 200),
        (large(MAX_DOCUMENT_BYTES - 2 * STAMP_BYTES), 200),
        (large(MAX_DOCUMENT_BYTES - STAMP_BYTES), 422),
        (r#"{"writes":[{"collection":"a","op":"delete","id":"1","document":{}}]}"#.into(), 422),
        (r#"{"writes":[{"collection":"stats","op":"delete","id":"1"}]}"#.into(), 422),
        (r#"{"writes":[{"collection":"system.users","op":"delete","id":"1"}]}"#.into(), 422),
        (r#"{"reads":[{"collection":"a/b","id":"1"}]}"#.into(), 422),
        (r#"{"reads":[{"collection":"a","id":""}]}"#.into(), 422),
        (r#"{"reads":[{"collection":"a","id":"a\u0000"}]}"#.into(), 422),
        (many("writes", r#"{"collection":"a","op":"insert","document":{}}"#), 422),
        (many("reads", r#"{"collection":"a","id":"1"}"#), 422),
    ] {
        assert_eq!(status(&body), expected, "{body:.200}");
        if expected != 200 {
            let plain = plain::transaction(body.as_bytes(), &OperationId::new("op".into()));
            assert_eq!(plain, None, "what is wrong is for serde to say: {body:.200}");
        }
    }
}

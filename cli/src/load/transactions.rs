//! The bundled scenario: requests to `/v1/transactions`, built once and patched in place. Everything variable
//! has a fixed width, so a request never changes its length or its layout.

use scalekit_service::contract::{MAX_COLLECTION_BYTES, MAX_OPERATIONS_PER_REQUEST};

use super::plan::{PlanError, Target};
use super::random::SplitMix64;

/// Item numbers have six digits.
const MAX_ITEMS: u32 = 1_000_000;
const MAX_RUN_BYTES: usize = 32;

/// The parameters of the scenario, as in `Scenario::Transactions`.
pub(super) struct Shape<'a> {
    pub(super) run: &'a str,
    pub(super) items: u32,
    pub(super) item_collection: &'a str,
    pub(super) write_collection: &'a str,
    pub(super) reads: u8,
    pub(super) writes: u8,
}

impl Shape<'_> {
    pub(super) fn check(&self, target: &Target) -> Result<(), PlanError> {
        if target.path.contains('?') {
            let problem = "the bundled scenario appends /v1/transactions, so the URL must have no query";
            return Err(PlanError::Url { url: target.url.clone(), problem });
        }
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !(1..=MAX_RUN_BYTES).contains(&self.run.len()) || !plain(self.run) {
            let given = format!("\"{}\"", self.run);
            return Err(PlanError::invalid("the run's name", given, "1 to 32 lower-case letters and digits"));
        }
        if !(1..=MAX_ITEMS).contains(&self.items) {
            return Err(PlanError::invalid("the number of items", self.items, "1 to 1000000"));
        }
        let most = MAX_OPERATIONS_PER_REQUEST;
        for (what, given) in
            [("the reads of a request", self.reads), ("the writes of a request", self.writes)]
        {
            if usize::from(given) > most {
                return Err(PlanError::invalid(what, given, format!("at most {most}")));
            }
        }
        if self.reads == 0 && self.writes == 0 {
            return Err(PlanError::invalid("the reads and writes of a request", 0, "at least one of either"));
        }
        check_collection(self.item_collection)?;
        check_collection(self.write_collection)
    }
}

/// Names that need no escaping in JSON nor in a path.
fn check_collection(name: &str) -> Result<(), PlanError> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if !plain || !(1..=MAX_COLLECTION_BYTES).contains(&name.len()) {
        let expected = "1 to 120 letters, digits, _ and -";
        return Err(PlanError::invalid("a collection's name", format!("\"{name}\""), expected));
    }
    Ok(())
}

/// The path of the transactions route below the target's own path.
pub(super) fn path(target: &Target) -> String {
    format!("{}/v1/transactions", target.path.trim_end_matches('/'))
}

/// What stands at a place that changes from request to request.
#[derive(Clone, Copy, Debug)]
enum Field {
    /// Eight hexadecimal digits.
    Sequence,
    /// Eight hexadecimal digits.
    User,
    /// Six decimal digits: an item that the generator chooses.
    Item,
    /// Three decimal digits.
    Quantity,
}

/// One thread's buffer with the request, and where it varies.
#[derive(Clone, Debug)]
pub(super) struct Transactions {
    bytes: Vec<u8>,
    fields: Vec<(usize, Field)>,
    items: u32,
    seed: u64,
}

impl Transactions {
    /// `head` is the request line and the fixed headers, each with its line end.
    pub(super) fn new(head: &str, shape: &Shape<'_>, seed: u64) -> Self {
        let mut body = Template::default();
        body.text("{\"reads\":[");
        for place in 0..shape.reads {
            let comma = if place == 0 { "" } else { "," };
            body.text(&format!("{comma}{{\"collection\":\"{}\",\"id\":\"item-", shape.item_collection));
            body.field(Field::Item);
            body.text("\"}");
        }
        body.text("],\"writes\":[");
        for place in 0..shape.writes {
            let comma = if place == 0 { "" } else { "," };
            let collection = shape.write_collection;
            body.text(&format!("{comma}{{\"collection\":\"{collection}\",\"op\":\"insert\",\"document\":"));
            body.document(place);
            body.text("}");
        }
        body.text("]}");

        let mut whole = Template::default();
        whole.text(head);
        whole.text(&format!("Content-Type: application/json\r\nIdempotency-Key: {}-", shape.run));
        whole.field(Field::Sequence);
        whole.text("-");
        whole.field(Field::User);
        whole.text(&format!("\r\nContent-Length: {}\r\n\r\n", body.bytes.len()));
        let offset = whole.bytes.len();
        whole.bytes.extend_from_slice(&body.bytes);
        whole.fields.extend(body.fields.iter().map(|&(at, field)| (at + offset, field)));
        Self { bytes: whole.bytes, fields: whole.fields, items: shape.items, seed }
    }

    pub(super) fn render(&mut self, user: u32, sequence: u32) -> &[u8] {
        let mut random = SplitMix64::of(self.seed, user, sequence, 0);
        for &(at, field) in &self.fields {
            match field {
                Field::Sequence => put_hex(&mut self.bytes[at..at + 8], sequence),
                Field::User => put_hex(&mut self.bytes[at..at + 8], user),
                Field::Item => put_decimal(&mut self.bytes[at..at + 6], random.below(self.items)),
                Field::Quantity => {
                    put_decimal(&mut self.bytes[at..at + 3], 100 + random.below(900));
                }
            }
        }
        &self.bytes
    }
}

#[derive(Default)]
struct Template {
    bytes: Vec<u8>,
    fields: Vec<(usize, Field)>,
}

impl Template {
    fn text(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn field(&mut self, field: Field) {
        self.fields.push((self.bytes.len(), field));
        self.text(match field {
            Field::Sequence | Field::User => "00000000",
            Field::Item => "000000",
            Field::Quantity => "100",
        });
    }

    /// A document of about 120 bytes, as an order line has.
    fn document(&mut self, place: u8) {
        self.text("{\"user\":\"");
        self.field(Field::User);
        self.text("\",\"sequence\":\"");
        self.field(Field::Sequence);
        self.text(&format!("\",\"line\":{place},\"item\":\"item-"));
        self.field(Field::Item);
        self.text("\",\"quantity\":");
        self.field(Field::Quantity);
        self.text(",\"currency\":\"EUR\",\"status\":\"new\"}");
    }
}

fn put_decimal(place: &mut [u8], mut value: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn put_hex(place: &mut [u8], mut value: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

/// The bodies of the POST requests to `/v1/transactions` that create the items before the run: `replace`, so
/// that a second run finds them as the first left them. One body at a time, since a million items make 200 MB.
pub(crate) fn seed_requests(items: u32, collection: &str) -> impl ExactSizeIterator<Item = String> {
    // The contract's limit is far below what u32 holds.
    let step = MAX_OPERATIONS_PER_REQUEST as u32;
    (0..items.div_ceil(step)).map(move |batch| {
        let from = batch * step;
        let to = items.min(from.saturating_add(step));
        let writes: Vec<String> = (from..to).map(|item| seed_write(item, collection)).collect();
        format!("{{\"writes\":[{}]}}", writes.join(","))
    })
}

fn seed_write(item: u32, collection: &str) -> String {
    let document = serde_json::json!({
        "name": format!("Item {item:06}"),
        "category": (["kitchen", "garden", "office", "travel"][item as usize % 4]),
        "price_cents": 1_000 + item % 9_000,
        "currency": "EUR",
        "stock": 100 + item % 900,
        "description": "Sold by the piece, sent within two working days, returns free",
    });
    let id = format!("item-{item:06}");
    serde_json::json!({ "collection": collection, "op": "replace", "id": id, "document": document })
        .to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use scalekit_service::contract::operation_id;
    use serde_json::Value;

    use super::*;

    fn shape(items: u32, reads: u8, writes: u8) -> Shape<'static> {
        Shape { run: "k3f9x2ab", items, item_collection: "items", write_collection: "orders", reads, writes }
    }

    /// The headers and the body of a rendered request; checks the length header.
    fn parts(request: &[u8]) -> (String, Value) {
        let text = std::str::from_utf8(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{head}");
        (head.to_owned(), serde_json::from_str(body).unwrap())
    }

    #[test]
    fn requests_follow_the_contract() {
        let mut transactions = Transactions::new("POST /x HTTP/1.1\r\nHost: h\r\n", &shape(1000, 5, 3), 1);
        for (user, sequence) in [(0, 0), (1199, 77), (u32::MAX, u32::MAX), (1, 0)] {
            let (head, body) = parts(transactions.render(user, sequence));
            let key = format!("Idempotency-Key: {}", operation_id("k3f9x2ab", sequence, user));
            assert!(head.starts_with("POST /x HTTP/1.1\r\n") && head.contains(&key), "{head}");
            let reads = body["reads"].as_array().unwrap();
            let writes = body["writes"].as_array().unwrap();
            assert_eq!((reads.len(), writes.len()), (5, 3));
            for read in reads {
                assert_eq!(read["collection"], "items");
                let id = read["id"].as_str().unwrap();
                assert!(id.strip_prefix("item-").unwrap().parse::<u32>().unwrap() < 1000, "{id}");
            }
            for write in writes {
                assert_eq!((&write["collection"], &write["op"]), (&"orders".into(), &"insert".into()));
                assert!(write.get("id").is_none());
                assert_eq!(write["document"]["user"], format!("{user:08x}"));
                let bytes = write["document"].to_string().len();
                assert!((110..=140).contains(&bytes), "{bytes}");
            }
        }
    }

    #[test]
    fn the_same_request_renders_the_same_bytes() {
        let mut transactions = Transactions::new("", &shape(1000, 2, 2), 1);
        let first = transactions.render(7, 9).to_vec();
        assert_ne!(first, transactions.render(7, 10));
        assert_eq!(first, transactions.render(7, 9));
    }

    #[test]
    fn reads_cover_the_items_evenly() {
        let mut random = SplitMix64::of(1, 0, 0, 0);
        let mut counts = [0u32; 10];
        (0..100_000).for_each(|_| counts[random.below(10) as usize] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn seeds_create_each_item_once_in_batches() {
        let mut seen = BTreeSet::new();
        assert_eq!(seed_requests(130, "items").len(), 3);
        for body in seed_requests(130, "items") {
            let body: Value = serde_json::from_str(&body).unwrap();
            let writes = body["writes"].as_array().unwrap();
            assert!((1..=MAX_OPERATIONS_PER_REQUEST).contains(&writes.len()));
            for write in writes {
                assert_eq!((&write["collection"], &write["op"]), (&"items".into(), &"replace".into()));
                let bytes = write["document"].to_string().len();
                assert!((150..=190).contains(&bytes), "{bytes}");
                assert!(seen.insert(write["id"].as_str().unwrap().to_owned()));
            }
        }
        assert_eq!(seen.len(), 130);
        assert_eq!(
            (seen.first().unwrap().as_str(), seen.last().unwrap().as_str()),
            ("item-000000", "item-000129")
        );
        assert_eq!(seed_requests(0, "items").count(), 0);
    }

    #[test]
    fn the_route_lies_below_the_base_path() {
        for (url, expected) in [
            ("http://127.0.0.1", "/v1/transactions"),
            ("http://127.0.0.1/", "/v1/transactions"),
            ("http://127.0.0.1/api/", "/api/v1/transactions"),
        ] {
            assert_eq!(path(&Target::parse(url).unwrap()), expected);
        }
    }

    #[test]
    fn parameters_out_of_bounds_are_refused() {
        let target = Target::parse("http://127.0.0.1/").unwrap();
        shape(1, 64, 64).check(&target).unwrap();
        for (shape, part) in [
            (shape(0, 1, 1), "number of items"),
            (shape(1_000_001, 1, 1), "number of items"),
            (shape(1, 65, 1), "at most 64"),
            (shape(1, 1, 65), "at most 64"),
            (shape(1, 0, 0), "at least one"),
            (Shape { run: "Upper", ..shape(1, 1, 1) }, "run's name"),
            (Shape { run: "", ..shape(1, 1, 1) }, "run's name"),
            (Shape { item_collection: "a\"b", ..shape(1, 1, 1) }, "collection's name"),
            (Shape { write_collection: "", ..shape(1, 1, 1) }, "collection's name"),
        ] {
            let error = shape.check(&target).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
        let query = Target::parse("http://127.0.0.1/?a").unwrap();
        assert!(shape(1, 1, 1).check(&query).unwrap_err().to_string().contains("no query"));
    }
}

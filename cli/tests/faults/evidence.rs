//! What is left of a load, in the journal and in the database, and what the checker says to it.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use mongodb::bson::{self, Bson, Document};
use redis::streams::StreamRangeReply;
use scalekit_service::testing::checker::{self, End, Event, Stored, Violation};

use crate::deployment::{Deployment, PATIENCE};
use crate::load::{Hands, NAMELESS};

const SAMPLE_PAUSE: Duration = Duration::from_millis(50);

impl Deployment {
    /// The journal's streams.
    pub(crate) async fn streams(&self, what: &str) -> Vec<String> {
        self.redis(&["KEYS", &format!("scalekit:{{*}}:{what}")]).await
    }

    /// Entries in the journal, and those delivered and not acknowledged.
    pub(crate) async fn waiting(&self) -> (u64, u64) {
        let (mut entries, mut pending) = (0, 0);
        for stream in self.streams("journal").await {
            entries += self.redis::<u64>(&["XLEN", &stream]).await;
            let groups: Vec<HashMap<String, redis::Value>> = self.redis(&["XINFO", "GROUPS", &stream]).await;
            for group in groups {
                let Some(redis::Value::Int(count)) = group.get("pending") else { panic!("{group:?}") };
                pending += u64::try_from(*count).unwrap();
            }
        }
        (entries, pending)
    }

    /// The newest entry of each stream, as its id.
    pub(crate) async fn newest(&self) -> Vec<(String, String)> {
        let mut newest = Vec::new();
        for stream in self.streams("journal").await {
            let last: StreamRangeReply = self.redis(&["XREVRANGE", &stream, "+", "-", "COUNT", "1"]).await;
            newest.extend(last.ids.into_iter().map(|entry| (stream.clone(), entry.id)));
        }
        newest
    }

    /// Whether these and all before them have left the journal.
    pub(crate) async fn are_gone(&self, newest: &[(String, String)]) -> bool {
        for (stream, id) in newest {
            let left: StreamRangeReply = self.redis(&["XRANGE", stream, "-", id, "COUNT", "1"]).await;
            if !left.ids.is_empty() {
                return false;
            }
        }
        true
    }

    /// What is there once the journal is empty, or is not so within `patience`.
    pub(crate) async fn end(&self, patience: Duration) -> End {
        let start = Instant::now();
        let (entries, pending) = loop {
            let waiting = self.waiting().await;
            if waiting == (0, 0) || start.elapsed() > patience {
                break waiting;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let mut end = End { entries, pending, ..End::default() };
        for stream in self.streams("dead").await {
            let letters: StreamRangeReply = self.redis(&["XRANGE", &stream, "-", "+"]).await;
            end.dead.extend(letters.ids.iter().map(|letter| letter.get::<String>("op_id").unwrap()));
        }
        let database = self.database();
        for collection in database.list_collection_names().await.unwrap() {
            let documents = documents(&database, &collection).await.unwrap();
            end.stored.extend(documents.into_iter().filter_map(|document| stored(&collection, document)));
        }
        end
    }

    /// The reasons of the dead letters.
    pub(crate) async fn letters(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for stream in self.streams("dead").await {
            let letters: StreamRangeReply = self.redis(&["XRANGE", &stream, "-", "+"]).await;
            reasons.extend(letters.ids.iter().map(|letter| letter.get::<String>("reason").unwrap()));
        }
        reasons
    }

    /// Waits for an empty journal and checks all that happened.
    pub(crate) async fn judge(&self, patience: Duration) -> Vec<Violation> {
        let end = self.end(patience).await;
        let log = self.hands.log();
        // Whatever fails, a write is accepted, refused for now, or open.
        let odd: Vec<_> = log.statuses.keys().filter(|status| ![202, 503, 504].contains(*status)).collect();
        assert!(odd.is_empty(), "{:?}", log.statuses);
        checker::check(&log.events, &without_open(end, &log.nameless_open))
    }

    pub(crate) async fn expect_no_violation(&self) {
        let violations = self.judge(PATIENCE).await;
        let Some(first) = violations.first() else { return };
        let story = story(&self.hands.log().events, first);
        panic!("{} violations, the first: {first:#?}\nwhose story is\n{story}", violations.len());
    }
}

/// Takes away one document for each insert that had neither a name nor an answer: it may be there, once.
fn without_open(mut end: End, open: &BTreeSet<String>) -> End {
    let mut open = open.clone();
    end.stored.retain(|stored| {
        let by = stored.fields.get("by").and_then(|by| by.as_str()).unwrap_or_default();
        !(stored.key.starts_with(NAMELESS) && open.remove(by))
    });
    end
}

/// All that happened to the document of a violation.
fn story(events: &[Event], violation: &Violation) -> String {
    let (Violation::Lost { key, .. }
    | Violation::Stranger { key, .. }
    | Violation::Wrong { key, .. }
    | Violation::Stale { key, .. }
    | Violation::Reordered { key }
    | Violation::Regressed { key, .. }
    | Violation::Undecidable { key }) = violation
    else {
        return String::new();
    };
    let mut operations: Vec<&str> = Vec::new();
    let mut lines = String::new();
    for event in events {
        let is_told = match event {
            Event::Invoke { op, writes } => {
                let is_of_it = writes.iter().any(|(written, _)| written == key);
                operations.extend(is_of_it.then_some(op.as_str()));
                is_of_it
            }
            Event::Accepted { op, .. } | Event::Refused { op, .. } | Event::Open { op } => {
                operations.contains(&op.as_str())
            }
            Event::Read { key: of, .. } | Event::Sample { key: of, .. } => of == key,
        };
        if is_told {
            lines += &format!("{event:?}\n");
        }
    }
    lines
}

async fn documents(database: &mongodb::Database, collection: &str) -> mongodb::error::Result<Vec<Document>> {
    let mut cursor = database.collection::<Document>(collection).find(bson::doc! {}).await?;
    let mut documents = Vec::new();
    while cursor.advance().await? {
        documents.push(cursor.deserialize_current()?);
    }
    Ok(documents)
}

/// `None` for what the service did not write.
fn stored(collection: &str, mut document: Document) -> Option<Stored> {
    let stamp = document.remove("_sk")?;
    let stamp = stamp.as_document()?;
    let id = document.remove("_id")?;
    let fields = document.into_iter().map(|(name, value)| (name, Bson::into_relaxed_extjson(value)));
    Some(Stored {
        key: format!("{collection}/{}", id.as_str()?),
        op: stamp.get_str("op").ok()?.to_owned(),
        version: stamp.get_i64("v").ok()?,
        deleted: stamp.contains_key("deleted"),
        fields: fields.collect(),
    })
}

/// Notes versions in the database as they change.
pub(crate) async fn sample(database: mongodb::Database, hands: Hands) {
    let mut seen: HashMap<String, i64> = HashMap::new();
    loop {
        for collection in ["own", "shared"] {
            // The database may be away.
            let Ok(documents) = documents(&database, collection).await else { continue };
            for Stored { key, version, .. } in documents.into_iter().filter_map(|doc| stored(collection, doc))
            {
                if seen.insert(key.clone(), version) != Some(version) {
                    hands.note(Event::Sample { key, version });
                }
            }
        }
        tokio::time::sleep(SAMPLE_PAUSE).await;
    }
}

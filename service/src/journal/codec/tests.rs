//! Entries there and back, and bytes that are none.

use super::*;
use bson::doc;
use proptest::prelude::*;

fn sample() -> Vec<Request> {
    let write = |id: &str, change| RequestWrite { key: DocumentKey::new("orders", id), change };
    vec![
        Request { op_id: "a".into(), at_ms: 5, writes: vec![], places: None, replay: None },
        Request {
            op_id: "k-1".into(),
            at_ms: u64::MAX,
            writes: vec![
                write("1", Change::insert(doc! {"amount": 12.5, "n": 3_i64})),
                write("2", Change::replace(doc! {})),
                write("ü", Change::Merge(doc! {"gone": null})),
                write("4", Change::Delete),
            ],
            places: None,
            replay: None,
        },
    ]
}

/// The same with a request of dead letters.
fn sample_of_replays() -> Vec<Request> {
    let origin = WriteId { shard: 1, position: Position { ms: 1_795_000_000_000, seq: 3 }, place: 2 };
    let mut requests = sample();
    requests[1].places = Some([0, 3, 4, 63].into());
    requests[1].replay = Some(Box::new(Replay { origin, as_new: true, times: 70_000 }));
    requests
}

const HERE: Position = Position { ms: 1_795_000_000_000, seq: 7 };

fn decode_here(bytes: &[u8]) -> Result<Vec<Request>, String> {
    decode(bytes, 3, HERE)
}

fn encoded_of(requests: &[Request]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&requests.iter().collect::<Vec<_>>(), &mut out).unwrap();
    out
}

fn encoded() -> Vec<u8> {
    encoded_of(&sample())
}

#[test]
fn round_trip() {
    assert_eq!(decode_here(&encoded()).unwrap(), sample());
    assert_eq!(encoded()[0], VERSION);
    let replays = encoded_of(&sample_of_replays());
    assert_eq!(decode_here(&replays).unwrap(), sample_of_replays());
    assert_eq!(replays[0], MARKED_VERSION);
    assert_eq!(sample_of_replays()[1].write_op_id(3), "k-1-63");
    for write in &sample()[1].writes {
        let mut out = Vec::new();
        encode_write(write, &mut out).unwrap();
        assert_eq!(decode_write(&out).as_ref(), Ok(write));
        out.push(0);
        assert!(decode_write(&out).is_err());
    }
}

/// What builds wrote from before there were two versions.
#[test]
fn an_entry_of_version_1_stays_as_it_was() {
    let write = RequestWrite { key: DocumentKey::new("c", "1"), change: Change::insert(doc! {"n": 7}) };
    let request = Request { op_id: "op".into(), at_ms: 258, writes: vec![write], places: None, replay: None };
    let bytes =
        b"\x01\x01\0\x02\x01\0\0\0\0\0\0\x02\0op\x01\0\0\x01\0c\x01\x001\x0c\0\0\0\x10n\0\x07\0\0\0\0";
    assert_eq!(encoded_of(std::slice::from_ref(&request)), bytes);
    assert_eq!(decode_here(bytes).unwrap(), [request]);
}

#[test]
fn a_request_without_a_name_is_named_by_its_position() {
    let write = |id: &str, change| RequestWrite { key: DocumentKey::new("orders", id), change };
    let insert = || Change::insert(doc! { "n": 1 });
    let writes = vec![write("", insert()), write("own", Change::Delete), write("", insert())];
    let unnamed =
        Request { op_id: "".into(), at_ms: 5, writes, places: Some([4, 5, 6].into()), replay: None };
    let mut bytes = vec![MARKED_VERSION];
    encode_request(&unnamed, Some(0xab), MARKED_VERSION, &mut bytes).unwrap();
    let id = WriteId { shard: 3, position: HERE, place: 9 };
    let named = decode_request(&bytes, id).unwrap();
    assert_eq!(&*named.op_id, "3.1795000000000.7.9.00000000000000ab");
    let ids: Vec<&str> = named.writes.iter().map(|write| write.key.id()).collect();
    assert_eq!(ids, [&*named.write_op_id(0), "own", &*named.write_op_id(2)]);
    assert_eq!(ids[0], "3.1795000000000.7.9.00000000000000ab-04");
    let other = decode_request(&bytes, WriteId { place: 10, ..id }).unwrap();
    assert_ne!(other.op_id, named.op_id);
    // What it is must be clear.
    let mut out = Vec::new();
    assert!(encode_request(&unnamed, None, MARKED_VERSION, &mut out).is_err());
    assert!(encode_request(&named, Some(1), MARKED_VERSION, &mut out).is_err());
    assert!(encode_request(&unnamed, Some(1), VERSION, &mut out).is_err());
}

#[test]
fn unknown_versions_and_every_cut_are_errors() {
    let mut bytes = encoded();
    for whole in [&bytes, &encoded_of(&sample_of_replays())] {
        for cut in 0..whole.len() {
            assert!(decode_here(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }
    bytes.push(0);
    assert!(decode_here(&bytes).unwrap_err().contains("left over"));
    bytes[0] = 9;
    assert!(decode_here(&bytes).unwrap_err().contains("version 9"));
}

#[test]
fn too_long_an_id_is_refused_and_leaves_nothing() {
    let long =
        Request { op_id: "x".repeat(70_000).into(), at_ms: 0, writes: vec![], places: None, replay: None };
    let mut lacks_a_place = sample_of_replays().remove(1);
    lacks_a_place.writes.pop();
    let mut unmarked = Vec::new();
    assert!(encode_request(&sample_of_replays()[1], None, VERSION, &mut unmarked).is_err());
    for request in [long, lacks_a_place] {
        let mut out = vec![1, 2];
        assert!(encode(&[&request], &mut out).is_err());
        assert_eq!(out, [1, 2]);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), flip in any::<(usize, u8)>()) {
        let _ = decode_here(&bytes);
        let _ = decode_write(&bytes);
        for mut valid in [encoded(), encoded_of(&sample_of_replays())] {
            let at = flip.0 % valid.len();
            valid[at] ^= flip.1;
            let _ = decode_here(&valid);
        }
        bytes.insert(0, VERSION);
        for version in [VERSION, MARKED_VERSION] {
            bytes[0] = version;
            let _ = decode_here(&bytes);
        }
    }
}

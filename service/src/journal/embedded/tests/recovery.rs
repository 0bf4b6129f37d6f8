//! What is found again after a restart, and on a disk that is damaged or full.

use super::*;

#[tokio::test]
async fn after_a_restart_only_what_is_not_acknowledged_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut positions = Vec::new();
    {
        let journal = open_small(dir.path());
        for n in 0..10 {
            positions.push(append(&journal, &format!("op{n}")).await);
        }
        let mut consumer = journal.consumer();
        read(&mut consumer).await;
        consumer.ack(&positions[..4]).await.unwrap();
    }
    let journal = open_small(dir.path());
    let again = read(&mut journal.consumer()).await;
    assert_eq!(ops(&again), ["op4", "op5", "op6", "op7", "op8", "op9"]);
    assert_eq!(again[0].0, positions[4]);
    assert_eq!(journal.status(id(positions[3])).await.unwrap(), WriteState::Stored);
    assert_eq!(journal.status(id(positions[4])).await.unwrap(), WriteState::Accepted);
    let later = append(&journal, "op10").await;
    assert!(later > positions[9]);
}

#[tokio::test]
async fn a_torn_tail_is_cut_wherever_it_was_torn() {
    let whole = tempfile::tempdir().unwrap();
    let (first, last);
    {
        let journal = open(whole.path());
        first = append(&journal, "first").await;
        last = append(&journal, "last").await;
    }
    let [segment] = &segments(whole.path())[..] else { panic!("one segment") };
    let bytes = fs::read(segment).unwrap();
    let mut payload = Vec::new();
    codec::encode(&[&request("last")], &mut payload).unwrap();
    let start = bytes.len() - segment::framed_bytes(&payload) as usize;
    // Cut at every byte of the last record, and each of its bytes spoiled.
    let cut = (start..bytes.len()).map(|end| bytes[..end].to_vec());
    let spoiled = (start..bytes.len()).map(|at| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x55;
        bytes
    });
    for (case, damaged) in cut.chain(spoiled).enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(segment.file_name().unwrap());
        fs::write(&path, &damaged).unwrap();
        let journal = EmbeddedJournal::open(dir.path(), Durability::Os, BOUNDS).unwrap();
        assert_eq!(read(&mut journal.consumer()).await, [(first, "first".to_owned())], "case {case}");
        assert_eq!(fs::metadata(&path).unwrap().len(), start as u64, "case {case}");
        let next = append(&journal, "next").await;
        assert!(next > first);
        assert_eq!(ops(&read(&mut journal.consumer()).await), ["first", "next"], "case {case}");
    }
    // And the whole file is taken whole.
    let journal = open(whole.path());
    assert_eq!(read(&mut journal.consumer()).await, [(first, "first".to_owned()), (last, "last".to_owned())]);
}

#[tokio::test]
async fn damage_before_the_last_segment_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    {
        let journal = open_small(dir.path());
        for n in 0..6 {
            append(&journal, &format!("op{n}")).await;
        }
    }
    let paths = segments(dir.path());
    assert!(paths.len() >= 3, "{paths:?}");
    let middle = File::options().write(true).open(&paths[1]).unwrap();
    middle.write_all_at(b"\xff", segment::HEADER_BYTES as u64 + 3).unwrap();
    let Err(JournalError::Failed(reason)) = EmbeddedJournal::open(dir.path(), Durability::Os, BOUNDS) else {
        panic!("a damaged log must not open")
    };
    let name = paths[1].file_name().unwrap().to_str().unwrap();
    assert!(reason.contains(name) && reason.contains("checksum") && reason.contains("backup"), "{reason}");
    assert_eq!(segments(dir.path()), paths, "nothing is thrown away");
}

#[tokio::test]
async fn damage_while_it_runs_is_an_error_and_not_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    append(&journal, "a").await;
    append(&journal, "b").await;
    let path = &segments(dir.path())[0];
    File::options().write(true).open(path).unwrap().write_all_at(b"\xff", 30).unwrap();
    let error = journal.consumer().read(10, usize::MAX, AT_ONCE).await.unwrap_err();
    assert!(matches!(&error, JournalError::Failed(reason) if reason.contains("damaged")), "{error}");
}

#[test]
fn a_torn_checkpoint_leaves_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let at = |ms| Position { ms, seq: ms };
    let path = dir.path().join("checkpoint");
    let mut checkpoint = checkpoint::Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.position(), Position::default());
    for ms in 1..=5 {
        checkpoint.advance(at(ms)).unwrap();
        let whole = fs::read(&path).unwrap();
        // The slot just written, torn at each byte of it.
        let slot = ((ms - 1) % 2) as usize * 20;
        for byte in slot..slot + 20 {
            let mut torn = whole.clone();
            torn[byte] ^= 0x0f;
            fs::write(&path, &torn).unwrap();
            let mut reopened = checkpoint::Checkpoint::open(dir.path()).unwrap();
            assert_eq!(reopened.position(), if ms == 1 { Position::default() } else { at(ms - 1) });
            // The next one replaces the torn slot, not the good one.
            reopened.advance(at(ms + 100)).unwrap();
            let replaced = fs::read(&path).unwrap();
            assert_ne!(replaced[slot..slot + 20], torn[slot..slot + 20]);
            assert_eq!((&replaced[..slot], &replaced[slot + 20..]), (&whole[..slot], &whole[slot + 20..]));
            fs::write(&path, &whole).unwrap();
        }
        assert_eq!(checkpoint::Checkpoint::open(dir.path()).unwrap().position(), at(ms));
    }
}

#[tokio::test]
async fn an_entry_that_nobody_can_read_is_delivered_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let position = Position { ms: 1_795_000_000_000, seq: 3 };
    let mut bytes = Vec::new();
    segment::frame(position, b"\x09 from the future", &mut bytes);
    fs::write(segment::path(dir.path(), position), bytes).unwrap();
    let journal = open(dir.path());
    let mut consumer = journal.consumer();
    let delivered = consumer.read(10, usize::MAX, AT_ONCE).await.unwrap();
    let [Delivery::Undecodable { position: at, reason, payload }] = &delivered[..] else {
        panic!("{delivered:?}")
    };
    assert_eq!((*at, &payload[..]), (position, &b"\x09 from the future"[..]));
    assert!(reason.contains("version 9"), "{reason}");
    assert_eq!(journal.backlog().await.unwrap().entries, 1);
    consumer.ack(&[position]).await.unwrap();
    assert_eq!(journal.backlog().await.unwrap().entries, 0);
}

/// A file-size limit stands for the disk: it too lets the first part of a write through. It holds for a whole
/// process, so this test runs itself in one of its own.
#[tokio::test]
async fn a_full_disk_refuses_cleanly_and_heals() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::signal::{SigHandler, Signal, signal};
    const CHILD: &str = "SCALEKIT_TEST_FULL_DISK";
    const NAME: &str = "journal::embedded::tests::recovery::a_full_disk_refuses_cleanly_and_heals";
    if std::env::var_os(CHILD).is_none() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    // SAFETY: ignoring a signal installs no handler.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let journal = Arc::new(open(dir.path()));
    let first = append(&journal, "first").await;
    let used = fs::metadata(&segments(dir.path())[0]).unwrap().len();
    setrlimit(Resource::RLIMIT_FSIZE, used + 10, hard).unwrap();
    for attempt in 0..3 {
        let error = journal.append(request("too much")).await.unwrap_err();
        assert!(matches!(error, JournalError::Unavailable(_)), "attempt {attempt}: {error}");
        assert_eq!(fs::metadata(&segments(dir.path())[0]).unwrap().len(), used, "nothing half written stays");
        let again = journal.append(request("first")).await.unwrap();
        assert_eq!(again, Appended::at(first, true));
    }
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    let second = append(&journal, "too much").await;
    assert!(second > first);
    drop(Arc::into_inner(journal).unwrap());
    let read = read(&mut open(dir.path()).consumer()).await;
    assert_eq!(read, [(first, "first".to_owned()), (second, "too much".to_owned())]);
}

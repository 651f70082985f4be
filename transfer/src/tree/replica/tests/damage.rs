//! Damage on disk: found, named, never believed.

use std::os::unix::fs::FileExt;

use super::*;

/// A replica with several runs and an unfinished generation; small, so that each byte can be damaged in turn.
fn sample(folder: &Path) -> Contents {
    let mut replica = Replica::create(folder, [3; 16]).unwrap();
    let files: Vec<_> = (0..40)
        .map(|at| Record::Entry(file(&format!("d/file-{at}"), at + 10, at, 0)))
        .collect();
    replica.append(&files).unwrap();
    replica
        .append(&[
            Record::Entry(entry("", 1, Node::Directory)),
            Record::Entry(entry("d", 2, Node::Directory)),
        ])
        .unwrap();
    replica.seal().unwrap();
    let chunks = Record::Chunks {
        path: path("d/long"),
        ino: 5,
        chunk_log2: 4,
        first: 2,
        digests: (0..3).map(digest).collect(),
    };
    replica
        .append(&[
            chunks,
            Record::Entry(file("d/long", 5, 80, 4)),
            Record::Remove {
                path: path("d/file-3"),
            },
        ])
        .unwrap();
    replica.checkpoint().unwrap();
    drop(replica);
    let mut replica = Replica::open(folder).unwrap().unwrap();
    assert_eq!(replica.runs.len(), 2);
    replica
        .append(&[Record::Entry(file("d/late", 50, 1, 0))])
        .unwrap();
    replica.checkpoint().unwrap();
    replica
        .append(&[Record::Entry(file("d/later", 51, 1, 0))])
        .unwrap();
    replica.checkpoint().unwrap();
    contents(&replica)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn read_all(folder: &Path) -> Result<Option<Contents>> {
    let Some(replica) = Replica::open(folder)? else {
        return Ok(None);
    };
    let mut cursor = replica.snapshot().cursor();
    cursor.children(&path("d"), &mut |_| Ok(()))?;
    replica.snapshot().iter_chunked().collect::<Result<_>>().map(Some)
}

#[test]
fn damage_of_any_byte_is_an_error_or_changes_nothing() {
    let base = scratch();
    let whole = base.path().join("whole");
    sample(&whole);
    let reference = base.path().join("reference");
    copy(&whole, &reference);
    let undamaged = read_all(&reference).unwrap();
    let mut kept = 0;
    for name in fs::read_dir(&whole)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
    {
        let len = fs::metadata(whole.join(&name)).unwrap().len();
        for at in 0..len {
            let damaged = base.path().join("damaged");
            copy(&whole, &damaged);
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(damaged.join(&name))
                .unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << (at % 8))], at).unwrap();
            match read_all(&damaged) {
                Err(error) => assert_eq!(error.kind(), Kind::Corrupt, "{name:?} at {at}: {error}"),
                Ok(found) => {
                    assert_eq!(found, undamaged, "{name:?} at {at}");
                    kept += 1;
                }
            }
            fs::remove_dir_all(&damaged).unwrap();
        }
    }
    // Only the note behind the last checkpoint may be damaged unnoticed.
    assert!(kept <= 36, "{kept} bytes of damage were not noticed");
}

#[test]
fn a_log_cut_anywhere_is_torn_and_keeps_whole_batches() {
    let base = scratch();
    let whole = base.path().join("whole");
    let sealed = sample(&whole);
    let log = fs::read_dir(&whole)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .find(|name| name.to_string_lossy().starts_with("log-"))
        .unwrap();
    let len = fs::metadata(whole.join(&log)).unwrap().len();
    let mut lens = Vec::new();
    for cut in 56..=len {
        let torn = base.path().join("torn");
        copy(&whole, &torn);
        fs::OpenOptions::new()
            .write(true)
            .open(torn.join(&log))
            .unwrap()
            .set_len(cut)
            .unwrap();
        let found = read_all(&torn).unwrap().unwrap();
        lens.push(found.len() - sealed.len());
        fs::remove_dir_all(&torn).unwrap();
    }
    assert!(lens.is_sorted(), "more of the log is more of the state");
    lens.dedup();
    assert_eq!(lens, [0, 1, 2]);
}

#[test]
fn a_missing_file_is_damage() {
    let base = scratch();
    let whole = base.path().join("whole");
    sample(&whole);
    for name in fs::read_dir(&whole)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
    {
        let damaged = base.path().join("damaged");
        copy(&whole, &damaged);
        fs::remove_file(damaged.join(&name)).unwrap();
        match read_all(&damaged) {
            Ok(found) => assert!(found.is_none() && name == "MANIFEST", "{name:?}"),
            Err(error) => assert_eq!(error.kind(), Kind::Corrupt, "{name:?}: {error}"),
        }
        fs::remove_dir_all(&damaged).unwrap();
    }
}

#[test]
fn one_owner_at_a_time() {
    let base = scratch();
    let replica = Replica::create(base.path(), [0; 16]).unwrap();
    assert_eq!(Replica::open(base.path()).err().unwrap().kind(), Kind::Usage);
    drop(replica);
    assert!(Replica::open(base.path()).unwrap().is_some());
}

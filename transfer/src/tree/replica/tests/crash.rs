//! Crashes and power losses at every single change of the folder.

use super::super::disk::hook;
use super::model::Model;
use super::*;

/// A step of the history that is interrupted.
enum Step {
    Append(Vec<Record>),
    Checkpoint,
    Seal,
}

fn chunks(at: &str, ino: u64, first: u64, len: u64) -> Record {
    Record::Chunks {
        path: path(at),
        ino,
        chunk_log2: 1,
        first,
        digests: (first..first + len).map(digest).collect(),
    }
}

fn rename(from: &str, to: &str) -> Record {
    Record::Rename {
        from: path(from),
        to: path(to),
    }
}

/// Every kind of record, several batches in one generation, chained renames, merges.
fn history() -> Vec<Step> {
    let intent = |at: &str, chunks| Record::Intent {
        path: path(at),
        chunks,
    };
    let batches: Vec<_> = (0..9).map(|at| chunks("d/long", 3, at * 1000, 1000)).collect();
    vec![
        Step::Append(vec![
            Record::Entry(entry("", 1, Node::Directory)),
            Record::Entry(entry("d", 2, Node::Directory)),
        ]),
        Step::Checkpoint,
        Step::Append(batches),
        Step::Append(vec![
            Record::Entry(file("d/long", 3, 18_000, 1)),
            Record::Entry(file("d/short", 4, 10, 0)),
        ]),
        Step::Checkpoint,
        Step::Seal,
        Step::Append(vec![
            rename("d/short", "d/a"),
            rename("d", "e"),
            Record::Entry(file("d", 9, 1, 0)),
        ]),
        Step::Checkpoint,
        Step::Append(vec![
            intent("e/long", vec![(5, 3000)]),
            chunks("e/long", 3, 5, 100),
            intent("e/a", vec![]),
        ]),
        Step::Checkpoint,
        Step::Append(vec![chunks("e/long", 3, 105, 900)]),
        Step::Seal,
        Step::Seal,
        Step::Append(vec![
            Record::Remove { path: path("e") },
            Record::Entry(file("e", 7, 3, 0)),
        ]),
        Step::Seal,
    ]
}

/// Where the history was interrupted.
struct Progress {
    model: Model,
    generation: u64,
    /// Records of the generation under way.
    appended: Vec<Record>,
    /// How many of them a checkpoint made durable.
    durable: usize,
    /// Whether a seal was under way.
    sealing: bool,
    step: usize,
}

fn play(replica: &mut Replica, steps: &[Step], progress: &mut Progress) -> Result<()> {
    for step in &steps[progress.step..] {
        match step {
            Step::Append(records) => {
                progress.appended.extend(records.iter().cloned());
                replica.append(records)?;
            }
            Step::Checkpoint => {
                replica.checkpoint()?;
                progress.durable = progress.appended.len();
            }
            Step::Seal => {
                progress.sealing = true;
                replica.seal()?;
                progress.sealing = false;
                progress.model.apply(&progress.appended);
                progress.generation += 1;
                progress.appended.clear();
                progress.durable = 0;
            }
        }
        progress.step += 1;
    }
    Ok(())
}

/// Opens the replica after a crash and checks that it holds all that was durable and nothing that was not appended.
/// Returns the model of what it holds, and how many of the appended records that includes.
fn recover(folder: &Path, progress: &Progress, context: &str) -> (Replica, Model, usize) {
    let replica = Replica::open(folder)
        .unwrap_or_else(|error| panic!("{context}: {error:?}"))
        .expect(context);
    let found = contents(&replica);
    let count = progress.appended.len();
    for taken in (progress.durable..=count).rev() {
        let mut model = progress.model.clone();
        model.apply(&progress.appended[..taken]);
        if model.contents() == found {
            let generation = progress.generation + u64::from(taken > 0);
            let may_be_sealed =
                progress.sealing && taken == count && replica.generation() == progress.generation + 1;
            // Records that change nothing may have been there or not.
            let unseen = progress.durable == 0 && replica.generation() == progress.generation;
            assert!(
                replica.generation() == generation || may_be_sealed || unseen,
                "{context}: generation"
            );
            return (replica, model, taken);
        }
    }
    panic!("{context}: holds neither the old state nor the new one: {found:#?}");
}

fn crash_everywhere(lose: impl Fn(u64), name: &str) {
    let steps = history();
    let mut budget = 0;
    loop {
        let base = scratch();
        let folder = base.path().join("replica");
        drop(Replica::create(&folder, [1; 16]).unwrap());
        let mut progress = Progress {
            model: Model::default(),
            generation: 0,
            appended: Vec::new(),
            durable: 0,
            sealing: false,
            step: 0,
        };
        hook::arm(budget, &base.path().join("graveyard"));
        let played = match Replica::open(&folder) {
            Ok(replica) => play(&mut replica.unwrap(), &steps, &mut progress),
            Err(error) => Err(error),
        };
        lose(budget);
        let context = format!("{name} after {budget} changes, in step {}", progress.step);
        let (mut replica, mut model, taken) = recover(&folder, &progress, &context);
        // What was not taken is sent again, and the rest follows.
        let mut rest = progress.appended[taken..].to_vec();
        for step in &steps[(progress.step + 1).min(steps.len())..] {
            match step {
                Step::Append(records) => rest.extend(records.iter().cloned()),
                Step::Checkpoint => {}
                Step::Seal => {
                    replica.append(&rest).unwrap();
                    model.apply(&rest);
                    rest.clear();
                    replica.seal().unwrap();
                }
            }
        }
        assert_eq!(contents(&replica), model.contents(), "{context}: after going on");
        if played.is_ok() {
            assert!(budget > 60, "the history has many changes, not {budget}");
            return;
        }
        budget += 1;
    }
}

#[test]
fn a_crash_at_any_change_leaves_a_state_that_was() {
    crash_everywhere(|_| hook::disarm(), "crash");
}

#[test]
fn a_power_loss_at_any_change_keeps_what_was_synced() {
    crash_everywhere(|_| hook::lose_power(0), "power loss");
}

#[test]
fn a_power_loss_may_keep_any_part_of_what_was_not_synced() {
    for seed in 1..3u64 {
        crash_everywhere(
            |budget| hook::lose_power(seed * 1000 + budget),
            "partial power loss",
        );
    }
}

#[test]
fn a_crash_while_creating_leaves_none_or_an_empty_one() {
    for budget in 0.. {
        let base = scratch();
        let folder = base.path().join("replica");
        let mut old = Replica::create(&folder, [1; 16]).unwrap();
        old.append(&[Record::Entry(file("a", 1, 1, 0))]).unwrap();
        old.seal().unwrap();
        drop(old);
        hook::arm(budget, &base.path().join("graveyard"));
        let created = Replica::create(&folder, [2; 16]).map(drop);
        hook::lose_power(budget);
        match Replica::open(&folder).unwrap() {
            Some(replica) if replica.migration() == [1; 16] => assert_eq!(contents(&replica).len(), 1),
            Some(replica) => assert!(contents(&replica).is_empty()),
            None => {}
        }
        let fresh = Replica::create(&folder, [2; 16]).unwrap();
        assert!(contents(&fresh).is_empty() && fresh.generation() == 0);
        if created.is_ok() {
            return;
        }
    }
}

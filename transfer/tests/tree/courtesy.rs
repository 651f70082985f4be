//! What a copy does to the source's machine: its page cache, its processors.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use go2cloud_tests::medium::{Format, Medium};
use rustix::fs::{Advice, fadvise};
use sys::page_cache::Residency;
use transfer::progress::{Event, Observer};
use transfer::source::SourceVolume;

use super::bed::{Bed, noise};

fn residency(folder: &Path) -> Vec<(String, Residency)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let file = fs::File::open(&path).unwrap();
            let len = file.metadata().unwrap().len();
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                Residency::of(file.as_fd(), len),
            )
        })
        .collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

fn pages(residency: &Residency, len: u64) -> u64 {
    match residency {
        Residency::Nothing => 0,
        Residency::Everything => len.div_ceil(4096),
        Residency::Pages(bits) => bits.iter().map(|word| u64::from(word.count_ones())).sum(),
    }
}

#[test]
fn the_page_cache_of_the_source_stays_as_it_was() {
    for format in Format::ALL {
        let medium = Medium::new(format, 400).unwrap();
        let bed = Bed::new();
        let source = medium.path().join("source");
        fs::create_dir(&source).unwrap();
        for index in 0..30 {
            let len = [5_000, 100_000, 900_000, 9_000_000][index % 4];
            let path = source.join(format!("f{index}"));
            fs::write(&path, noise(len, index as u64)).unwrap();
            let file = fs::File::open(&path).unwrap();
            file.sync_all().unwrap();
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            match index % 3 {
                0 => drop(fs::read(&path).unwrap()),
                1 => {
                    fadvise(&file, 0, None, Advice::Random).unwrap();
                    let mut part = vec![0; len / 3];
                    std::os::unix::fs::FileExt::read_exact_at(&file, &mut part, len as u64 / 2).unwrap();
                }
                _ => {}
            }
        }
        let before = residency(&source);
        let kinds = |wanted: fn(&Residency) -> bool| before.iter().filter(|(_, is)| wanted(is)).count();
        assert!(kinds(|is| *is == Residency::Nothing) >= 10, "{format:?}");
        assert!(kinds(|is| *is == Residency::Everything) >= 10, "{format:?}");
        let summary = bed
            .sync_with(|plan| {
                let SourceVolume::Tree(tree) = &mut plan.volume else {
                    unreachable!()
                };
                tree.root = source.clone();
            })
            .unwrap();
        assert!(summary.ok && summary.bytes_read > 70_000_000, "{summary:?}");
        let after = residency(&source);
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            let len = fs::metadata(source.join(name)).unwrap().len();
            let (before, after) = (pages(before, len), pages(after, len));
            // The kernel may take pages for others meanwhile, but nothing new may come in.
            assert!(
                after <= before && before - after <= before / 20 + 32,
                "{format:?}: {before} pages of {name} before, {after} after"
            );
        }
        go2cloud_tests::compare::compare(&source, &bed.target, Default::default()).assert_equal();
    }
}

/// Notes whether threads of this process run with less weight while a round runs.
#[derive(Default)]
struct Niceness(AtomicBool);

impl Observer for Niceness {
    fn event(&self, event: &Event) {
        if !matches!(event, Event::Progress(_)) {
            return;
        }
        for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let nice = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_whitespace().nth(16));
            if nice.is_some_and(|nice| nice.parse::<i32>().is_ok_and(|nice| nice >= 5)) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn reading_threads_run_in_the_background_unless_told_not_to() {
    for gives_way in [true, false] {
        let bed = Bed::new();
        for index in 0..40 {
            bed.write(&format!("f{index}"), &noise(500_000, index));
        }
        let seen = Niceness::default();
        let summary = bed
            .sync_observed(&seen, |plan| {
                plan.gives_way = gives_way;
                plan.throttle.set(20 << 20);
            })
            .unwrap();
        assert!(summary.ok, "{summary:?}");
        bed.assert_equal();
        // Other tests of this process may be polite at the same time, but never rude.
        assert!(seen.0.load(Ordering::Relaxed) || !gives_way);
    }
}

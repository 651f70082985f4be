use super::*;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

type Opener = fn(BorrowedFd<'_>, &[u8], OFlags, Mode) -> Result<OwnedFd>;
const OPENERS: [(&str, Opener); 2] = [("openat2", open), ("walk", open_by_walk)];

fn root_of(folder: &tempfile::TempDir) -> OwnedFd {
    rustix::fs::open(folder.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

#[test]
fn links_and_dots_never_lead_out() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"x").unwrap();
    std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
    symlink(outside.path(), folder.path().join("a/out")).unwrap();
    symlink("b", folder.path().join("a/inside")).unwrap();
    symlink(outside.path().join("secret"), folder.path().join("a/file")).unwrap();
    let root = root_of(&folder);
    for (name, opener) in OPENERS {
        for path in [
            "a/out/secret",
            "a/inside/x",
            "a/file",
            "../x",
            "a/../../x",
            "/etc/passwd",
            "a//b",
        ] {
            let answer = opener(root.as_fd(), path.as_bytes(), OFlags::RDONLY, Mode::empty());
            let refused = matches!(answer, Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV));
            assert!(refused || path == "a//b", "{name} {path}: {answer:?}");
        }
        assert!(opener(root.as_fd(), b"a/b", OFlags::RDONLY, Mode::empty()).is_ok());
    }
}

#[test]
fn paths_beyond_path_max_open() {
    let folder = tempfile::tempdir().unwrap();
    let root = root_of(&folder);
    let name = [b'n'; 200];
    let mut path = Vec::new();
    let mut at = root_of(&folder);
    for _ in 0..60 {
        rustix::fs::mkdirat(&at, &name[..], Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name[..], STEP, Mode::empty()).unwrap();
        path.extend_from_slice(&name);
        path.push(b'/');
    }
    path.extend_from_slice(b"leaf");
    assert!(path.len() > 12_000);
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    open(root.as_fd(), &path, create, Mode::RUSR).unwrap();
    for (_, opener) in OPENERS {
        opener(root.as_fd(), &path, OFlags::RDONLY, Mode::empty()).unwrap();
    }
}

/// A directory that turns into a link to elsewhere and back: what is elsewhere is never opened.
#[test]
fn a_swapped_directory_never_leads_out() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};
    const LONGEST: Duration = Duration::from_secs(10);
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("f"), b"outside").unwrap();
    std::fs::create_dir(folder.path().join("a")).unwrap();
    std::fs::write(folder.path().join("a/f"), b"inside!").unwrap();
    symlink(outside.path(), folder.path().join("evil")).unwrap();
    let (a, evil) = (folder.path().join("a"), folder.path().join("evil"));
    let stop = AtomicBool::new(false);
    let root = root_of(&folder);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begin = Instant::now();
            while !stop.load(Ordering::Relaxed) && begin.elapsed() < 3 * LONGEST {
                renameat_with(CWD, &a, CWD, &evil, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for (name, opener) in OPENERS {
            let (mut inside, mut refused) = (0, 0);
            let begin = Instant::now();
            while (inside < 200 || refused < 200) && begin.elapsed() < LONGEST {
                let Ok(file) = opener(root.as_fd(), b"a/f", OFlags::RDONLY, Mode::empty()) else {
                    refused += 1;
                    continue;
                };
                let mut content = [0; 7];
                rustix::io::read(&file, &mut content[..]).unwrap();
                assert_eq!(&content, b"inside!", "{name}");
                inside += 1;
            }
            assert!(
                inside > 0 && refused > 0,
                "{name}: {inside} inside, {refused} refused"
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
}

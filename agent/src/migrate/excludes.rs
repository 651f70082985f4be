//! What is left out: the exclude file beside the program, and the job's own list.

use std::path::Path;

/// The exclude file beside the program.
pub const FILE: &str = "rsync_excludes_linux.txt";

/// The exclude rules of a migration of `root`.
///
/// The file's rules are written for a whole system (`/dev/*` …): a single directory is migrated without them.
///
/// # Errors
/// The file is there but cannot be read.
pub fn of(folder: &Path, root: &Path, job: Option<&str>) -> std::io::Result<Vec<Vec<u8>>> {
    let mut rules = Vec::new();
    if root == Path::new("/") {
        match std::fs::read(folder.join(FILE)) {
            Ok(text) => rules.extend(lines(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    rules.extend(list(job.unwrap_or_default()).into_iter().map(String::into_bytes));
    Ok(rules)
}

/// The lines of an exclude file, which need not be text.
pub fn lines(file: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let lines = file.strip_suffix(b"\n").unwrap_or(file);
    lines.split(|byte| *byte == b'\n').map(<[u8]>::to_vec)
}

/// The job's list: a JSON array in a string, or one rule a line.
fn list(text: &str) -> Vec<String> {
    let text = text.trim();
    if let Ok(rules) = serde_json::from_str::<Vec<String>>(text) {
        return rules;
    }
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_list_are_read() {
        assert_eq!(list(r#"["/a/*", "*.tmp"]"#), ["/a/*", "*.tmp"]);
        assert_eq!(list("/a/*\n\n *.tmp "), ["/a/*", "*.tmp"]);
        assert!(list("").is_empty());
    }

    #[test]
    fn the_file_counts_for_whole_systems_only() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "/dev/*\n").unwrap();
        assert_eq!(
            of(folder.path(), Path::new("/"), Some("x")).unwrap(),
            [&b"/dev/*"[..], b"x"]
        );
        assert_eq!(of(folder.path(), Path::new("/srv"), Some("x")).unwrap(), [b"x"]);
        assert!(
            of(Path::new("/nonexistent"), Path::new("/"), None)
                .unwrap()
                .is_empty()
        );
    }
}

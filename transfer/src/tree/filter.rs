//! Which entries the user left out: exclude files in rsync's language.
//!
//! A [`Filter`] is the ordered list of rules of one or more `--exclude-from` files. The first rule that matches an entry
//! decides, an entry that no rule matches is copied, and whoever walks the tree never enters an excluded directory: that
//! is what makes `dir/` leave out everything below `dir`. The rules agree with the installed rsync to the last quirk,
//! which the tests prove against the program itself; patterns and paths are bytes, never text.
//!
//! What it deliberately does not do: rsync's wider filter language (merge files, modifiers, `protect`, `hide`), which
//! exclude files do not speak either.

mod pattern;
#[cfg(test)]
mod rsync_tests;

use crate::error::{Error, Kind, Result};
use pattern::{Pattern, Text};

/// Longest rule in bytes. A pattern longer than PATH_MAX cannot be meant.
const RULE_LEN_MAX: usize = 4096;
/// Bytes of all lines, each with its end: they travel to the target in one message. A rule for each of 100,000 paths fits.
const RULES_LEN_MAX: usize = 6 * 1024 * 1024;
const _: () = assert!(RULES_LEN_MAX + 1024 * 1024 < crate::limits::FRAME_RAW_LEN_MAX);

/// An ordered list of exclude and include rules.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    rules: Vec<Rule>,
}

/// What a matching rule does with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Exclude,
    Include,
}

#[derive(Clone, Debug)]
struct Rule {
    verdict: Verdict,
    directories_only: bool,
    /// `pattern/***` matches the directory itself, too: its name is looked at with a slash behind it.
    trailing_slash: bool,
    /// A pattern that starts with `**` sees a slash before the path, so that `**/name` matches at the top.
    leading_slash: bool,
    reach: Reach,
    pattern: Pattern,
}

/// Which part of the path has to match the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The last component.
    Name,
    /// The last so many components.
    LastComponents(usize),
    /// The whole path.
    WholePath,
    /// The whole path, or what follows any slash.
    AfterAnySlash,
}

impl Filter {
    /// Reads the lines of exclude files, in order. Blank lines and those that start with `#` or `;` say nothing; `- `
    /// and `+ ` exclude and include, a pattern alone excludes, and `!` alone forgets all rules before it. A carriage
    /// return ends a line like a newline.
    ///
    /// # Errors
    /// A prefix without a pattern, a NUL byte, a rule longer than 4096 bytes, or more than 6 MiB of rules. The message counts lines from 1 over
    /// all that it was given.
    pub fn parse<L: AsRef<[u8]>>(lines: impl IntoIterator<Item = L>) -> Result<Self> {
        let mut filter = Self::default();
        let mut len = 0usize;
        for (index, line) in lines.into_iter().enumerate() {
            // Three bytes for the length that a message has before each.
            len = len.saturating_add(line.as_ref().len() + 3);
            if len > RULES_LEN_MAX {
                return Err(
                    Error::new(Kind::Usage, "use the exclude rules: they exceed 6 MiB")
                        .remedy("exclude directories instead of each entry in them"),
                );
            }
            for text in line.as_ref().split(|byte| matches!(byte, b'\n' | b'\r')) {
                filter.add(text).map_err(|(problem, remedy)| {
                    Error::new(
                        Kind::Usage,
                        format!(
                            "use the exclude rules: line {} ({:?}) {problem}",
                            index + 1,
                            String::from_utf8_lossy(&text[..text.len().min(80)])
                        ),
                    )
                    .remedy(remedy)
                })?;
            }
        }
        Ok(filter)
    }

    fn add(&mut self, line: &[u8]) -> std::result::Result<(), (&'static str, &'static str)> {
        if line.is_empty() || line[0] == b'#' || line[0] == b';' {
            return Ok(());
        }
        if line.contains(&0) {
            return Err(("holds a NUL byte", "remove it: no name can contain one"));
        }
        if line.len() > RULE_LEN_MAX {
            return Err((
                "is longer than 4096 bytes",
                "split it: no path that long can match",
            ));
        }
        if line == b"!" {
            self.rules.clear();
            return Ok(());
        }
        let (verdict, pattern) = match line {
            [b'-', b' ', pattern @ ..] => (Verdict::Exclude, pattern),
            [b'+', b' ', pattern @ ..] => (Verdict::Include, pattern),
            pattern => (Verdict::Exclude, pattern),
        };
        if pattern.is_empty() {
            return Err((
                "ends after its prefix",
                "write a pattern after it or remove the line",
            ));
        }
        self.rules.push(Rule::new(verdict, pattern));
        Ok(())
    }

    /// A rule that excludes everything.
    pub fn of_everything() -> Self {
        Self {
            rules: vec![Rule::new(Verdict::Exclude, b"*")],
        }
    }

    /// Whether there is no rule, so that nothing is excluded.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the entry at `path` (relative to the volume's root, without a slash at either end) is left out, given
    /// that none of the directories above it is. The root itself never is.
    pub fn excludes(&self, path: &[u8], is_directory: bool) -> bool {
        if path.is_empty() {
            return false;
        }
        self.rules
            .iter()
            .find(|rule| rule.matches(path, is_directory))
            .is_some_and(|rule| rule.verdict == Verdict::Exclude)
    }
}

impl Rule {
    fn new(verdict: Verdict, pattern: &[u8]) -> Self {
        // Like rsync, judge by the raw bytes: an escaped `\*` makes a pattern wild, too.
        let double_star = find_double_star(pattern);
        let directories_only = pattern.len() > 1 && pattern.ends_with(b"/");
        let pattern = if directories_only {
            &pattern[..pattern.len() - 1]
        } else {
            pattern
        };
        let trailing_slash = pattern.ends_with(b"***");
        let leading_slash = double_star == Some(0);
        let slashes = pattern.iter().filter(|byte| **byte == b'/').count();
        let (anchored, body) = match pattern {
            [b'/', body @ ..] => (true, body),
            body => (false, body),
        };
        let reach = if slashes == 0 && double_star.is_none() {
            Reach::Name
        } else if anchored || leading_slash {
            Reach::WholePath
        } else if double_star.is_some() {
            Reach::AfterAnySlash
        } else {
            Reach::LastComponents(slashes + 1)
        };
        Self {
            verdict,
            directories_only,
            trailing_slash,
            leading_slash,
            reach,
            pattern: Pattern::compile(body),
        }
    }

    fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        if self.directories_only && !is_directory {
            return false;
        }
        let text = |bytes| Text::new(bytes, self.leading_slash, self.trailing_slash && is_directory);
        match self.reach {
            Reach::Name => self.pattern.matches(&text(last_components(path, 1)), 0),
            Reach::LastComponents(count) => self.pattern.matches(&text(last_components(path, count)), 0),
            Reach::WholePath => self.pattern.matches(&text(path), 0),
            Reach::AfterAnySlash => {
                let text = text(path);
                self.pattern.matches(&text, 0)
                    || (1..=text.len())
                        .any(|start| text.at(start - 1) == Some(b'/') && self.pattern.matches(&text, start))
            }
        }
    }
}

fn find_double_star(pattern: &[u8]) -> Option<usize> {
    pattern.windows(2).position(|pair| pair == b"**")
}

/// The last `count` components of `path`; all of it when it has fewer.
fn last_components(path: &[u8], count: usize) -> &[u8] {
    let mut slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    match slashes.nth(count - 1) {
        Some((slash, _)) => &path[slash + 1..],
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(lines: &str) -> Filter {
        Filter::parse(lines.lines()).unwrap()
    }

    #[test]
    fn the_shipped_exclude_file_is_valid_and_means_what_it_says() {
        let shipped = include_bytes!("../../../rsync_excludes_linux.txt");
        let filter = Filter::parse(shipped.split(|byte| *byte == b'\n')).unwrap();
        assert_eq!(filter.rules.len(), 7);
        for (path, excluded) in [
            (&b"dev"[..], false),
            (b"dev/null", true),
            (b"proc/1", true),
            (b"srv/proc/1", false),
            (b"var/cache/yum/x", true),
            (b"var/cache/apt", false),
            (b"lost+found", false),
            (b"var/lib/lxcfs/proc", true),
        ] {
            assert_eq!(filter.excludes(path, false), excluded, "{path:?}");
        }
    }

    #[test]
    fn prefixes_comments_and_clearing_work_in_order() {
        let rules = filter("# c\n; c\n\n+ keep.o\n*.o\n!\n*.bak\n- !");
        assert_eq!(rules.rules.len(), 2);
        assert!(!rules.excludes(b"a.o", false));
        assert!(rules.excludes(b"d/a.bak", false));
        assert!(rules.excludes(b"!", false));
        let rules = filter("+ keep.o\n*.o\n!x\n-y\n +z");
        assert!(!rules.excludes(b"keep.o", false));
        assert!(rules.excludes(b"a.o", false));
        assert!(rules.excludes(b"!x", false));
        assert!(rules.excludes(b"-y", false));
        assert!(rules.excludes(b" +z", false));
    }

    #[test]
    fn three_stars_match_the_directory_itself_with_a_slash_behind_them_too() {
        for rules in ["dir/***", "dir/***/"] {
            assert!(filter(rules).excludes(b"dir", true), "{rules}");
            assert!(!filter(rules).excludes(b"dir", false), "{rules}");
        }
        assert!(!filter("dir/**").excludes(b"dir", true));
    }

    #[test]
    fn errors_name_the_line_and_the_remedy() {
        let error = Filter::parse(["a", "- "]).unwrap_err().to_string();
        assert!(
            error.contains("line 2") && error.contains("remove the line"),
            "{error}"
        );
        assert!(Filter::parse([&b"a\0"[..]]).is_err());
        assert!(Filter::parse([vec![b'a'; RULE_LEN_MAX + 1]]).is_err());
        assert!(Filter::parse([vec![b'a'; RULE_LEN_MAX]]).is_ok());
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let rules = filter(&format!("{}b", "*a".repeat(60)));
        assert!(!rules.excludes(&[b'a'; 255], false));
        let rules = filter(&format!("{}b", "**a*".repeat(60)));
        let path = [&[b'a'; 200][..]; 20].join(&b'/');
        assert!(!rules.excludes(&path, false));
    }
}

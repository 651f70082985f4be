//! Flags in every spelling that users of the tool know: `-x v`, `-x=v`, `--x v`, `--x=v`, `-x=false`.
//!
//! Runs before the parser proper and knows the flags from its definition. All unknown flags are refused at once, each
//! with the nearest name; a flag given twice with different values is refused, too. Values are not looked at.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::iter::Peekable;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use clap::{Arg, ArgAction, Command};

use crate::refusal::Refusals;

/// Rewrites `args` (the first one is the program's name) into the spelling `--flag=value`. What is unknown, lacks its
/// value, or contradicts itself is refused and left out, so that the rest can be looked at, too.
pub fn normalise(command: &Command, args: Vec<OsString>) -> (Vec<OsString>, Refusals) {
    let mut words = args.into_iter().peekable();
    let mut normaliser = Normaliser {
        command,
        output: words.next().into_iter().collect(),
        given: BTreeMap::new(),
        refusals: Refusals::default(),
    };
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        if bytes == b"--" {
            normaliser.output.push(word);
            normaliser.output.extend(words);
            break;
        } else if bytes.len() > 1 && bytes[0] == b'-' {
            normaliser.flag(bytes, &mut words);
        } else {
            if let Some(subcommand) = command.find_subcommand(&word)
                && std::ptr::eq(normaliser.command, command)
            {
                normaliser.command = subcommand;
                normaliser.given.clear();
            }
            normaliser.output.push(word);
        }
    }
    (normaliser.output, normaliser.refusals)
}

struct Normaliser<'a> {
    command: &'a Command,
    output: Vec<OsString>,
    /// Values of the flags that may be given once.
    given: BTreeMap<String, OsString>,
    refusals: Refusals,
}

impl Normaliser<'_> {
    fn flag(&mut self, word: &[u8], rest: &mut Peekable<impl Iterator<Item = OsString>>) {
        let shown = String::from_utf8_lossy(word).into_owned();
        let bare = word.strip_prefix(b"--").unwrap_or(&word[1..]);
        let (name, value) = match bare.iter().position(|byte| *byte == b'=') {
            None => (bare, None),
            Some(at) => (&bare[..at], Some(OsStr::from_bytes(&bare[at + 1..]))),
        };
        let Some(arg) = std::str::from_utf8(name).ok().and_then(|name| self.find(name)) else {
            let shown = shown.split('=').next().unwrap_or_default().to_owned();
            let nearest = self.nearest(&String::from_utf8_lossy(name)).map(str::to_owned);
            self.refusals.add(match &nearest {
                Some(nearest) => format!("unknown flag `{shown}`; did you mean `--{nearest}`?"),
                None => format!("unknown flag `{shown}`"),
            });
            if let Some(nearest) = nearest {
                self.assume(&nearest, value, rest);
            }
            return;
        };
        let long = arg.get_long().unwrap_or_default().to_owned();
        if !arg.get_action().takes_values() {
            self.switch(&long, value);
            return;
        }
        let repeats = matches!(arg.get_action(), ArgAction::Append);
        let Some(value) = value.map(OsStr::to_owned).or_else(|| rest.next()) else {
            self.refusals.add(format!("`{shown}` needs a value"));
            return;
        };
        if !repeats
            && let Some(before) = self.given.insert(long.clone(), value.clone())
            && before != value
        {
            self.refusals
                .add(format!("`--{long}` is given twice, with different values"));
        }
        let mut word = format!("--{long}=").into_bytes();
        word.extend_from_slice(value.as_bytes());
        self.output.push(OsString::from_vec(word));
    }

    /// Goes on as if the nearest flag had been typed, so that it is not missed as well.
    fn assume(
        &mut self,
        long: &str,
        value: Option<&OsStr>,
        rest: &mut Peekable<impl Iterator<Item = OsString>>,
    ) {
        let takes_value = self.find(long).is_some_and(|arg| arg.get_action().takes_values());
        let mut word = format!("--{long}").into_bytes();
        if takes_value {
            let is_value = |word: &OsString| !word.as_bytes().starts_with(b"-");
            let Some(value) = value.map(OsStr::to_owned).or_else(|| rest.next_if(is_value)) else {
                return;
            };
            word.push(b'=');
            word.extend_from_slice(value.as_bytes());
        }
        self.output.push(OsString::from_vec(word));
    }

    fn switch(&mut self, long: &str, value: Option<&OsStr>) {
        let text = value.map(|value| value.to_string_lossy().to_ascii_lowercase());
        let on = match text.as_deref() {
            None | Some("true" | "t" | "1") => true,
            Some("false" | "f" | "0") => false,
            Some(text) => {
                self.refusals
                    .add(format!("`--{long}={text}`: the value must be true or false"));
                return;
            }
        };
        let word = OsString::from(format!("--{long}"));
        let shown = OsString::from(if on { "true" } else { "false" });
        match self.given.insert(long.to_owned(), shown.clone()) {
            Some(before) if before != shown => {
                self.refusals
                    .add(format!("`--{long}` is given twice, once on and once off"));
            }
            Some(_) => {}
            None if on => self.output.push(word),
            None if self.find("off").is_some() => self.output.push(format!("--off={long}").into()),
            None => {}
        }
    }

    fn find(&self, name: &str) -> Option<&Arg> {
        let mut letters = name.chars();
        let letter = match (letters.next(), letters.next()) {
            (Some(letter), None) => Some(letter),
            _ => None,
        };
        self.command.get_arguments().find(|arg| {
            arg.get_long() == Some(name)
                || arg
                    .get_all_aliases()
                    .is_some_and(|aliases| aliases.contains(&name))
                || (letter.is_some() && arg.get_short() == letter)
        })
    }

    fn nearest(&self, name: &str) -> Option<&str> {
        let known = self.command.get_arguments().filter_map(Arg::get_long);
        let (distance, nearest) = known
            .map(|known| (distance(name, known), known))
            .min_by_key(|(distance, _)| *distance)?;
        (distance <= (name.len() / 3).max(2)).then_some(nearest)
    }
}

/// Number of letters to change, add or take away (Levenshtein), with case and the kind of dash ignored.
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let fold = |text: &str| text.to_ascii_lowercase().replace('_', "-").into_bytes();
    let (one, other) = (fold(one), fold(other));
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, left) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, right) in other.iter().enumerate() {
            let replace = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = replace.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let flags = |command: Command| {
            command
                .arg(Arg::new("region").long("region").action(ArgAction::Set))
                .arg(Arg::new("check").long("check").action(ArgAction::SetTrue))
                .arg(Arg::new("exclude").long("exclude").action(ArgAction::Append))
        };
        let sync = flags(Command::new("sync"))
            .arg(Arg::new("dir"))
            .arg(Arg::new("secret-file").long("secret-file"));
        let mut command = flags(Command::new("go2cloud")).subcommand(sync);
        command.build();
        command
    }

    fn run(line: &str) -> Result<String, Vec<String>> {
        let args = line.split(' ').map(OsString::from).collect();
        let (args, refusals) = normalise(&command(), args);
        if refusals.is_empty() {
            Ok(args.join(OsStr::new(" ")).into_string().unwrap())
        } else {
            Err(refusals.as_slice().to_vec())
        }
    }

    #[test]
    fn every_spelling_means_the_same() {
        for line in ["g -region R", "g -region=R", "g --region R", "g --region=R"] {
            assert_eq!(run(line).unwrap(), "g --region=R", "{line}");
        }
        for line in [
            "g -check",
            "g --check",
            "g -check=true",
            "g --check=1",
            "g --check -check",
        ] {
            assert_eq!(run(line).unwrap(), "g --check", "{line}");
        }
        assert_eq!(run("g -check=false").unwrap(), "g");
        assert_eq!(run("g --region=a=b").unwrap(), "g --region=a=b");
    }

    #[test]
    fn a_value_may_begin_with_a_dash() {
        assert_eq!(
            run("g -region -check -check").unwrap(),
            "g --region=-check --check"
        );
    }

    #[test]
    fn subcommands_have_their_own_flags() {
        assert_eq!(
            run("g sync -secret-file k /srv").unwrap(),
            "g sync --secret-file=k /srv"
        );
        assert_eq!(run("g -secret-file k").unwrap_err().len(), 1);
        assert_eq!(run("g sync -- -x").unwrap(), "g sync -- -x");
    }

    #[test]
    fn everything_wrong_is_refused_at_once_with_the_nearest_name() {
        let refusals =
            run("g -regoin R --chek -zzzzzz --region=a --region b -check=maybe -region").unwrap_err();
        assert_eq!(
            refusals,
            [
                "unknown flag `-regoin`; did you mean `--region`?",
                "unknown flag `--chek`; did you mean `--check`?",
                "unknown flag `-zzzzzz`",
                "`--region` is given twice, with different values",
                "`--check=maybe`: the value must be true or false",
                "`-region` needs a value",
            ]
        );
        let line = ["g", "-regoin", "R", "-chek", "-exclud", "-zzz"].map(OsString::from);
        let (assumed, _) = normalise(&command(), line.to_vec());
        assert_eq!(
            assumed.join(OsStr::new(" ")),
            "g --region=R --check",
            "what is meant is not missed, too"
        );
        assert_eq!(
            run("g --exclude a --exclude b").unwrap(),
            "g --exclude=a --exclude=b"
        );
    }
}

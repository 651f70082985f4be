//! Flags in every spelling that users of the tool know: `-x v`, `-x=v`, `--x v`, `--x=v`, `-x=false`.
//!
//! Runs before the parser proper and knows the flags from its definition. Everything unknown is refused at once, each
//! with the nearest name; a flag given twice with different values is refused, too. Each mistake is refused once: what
//! belongs to an unknown word goes with it, or is taken as the nearest name's. Values are not looked at.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::iter::Peekable;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use clap::{Arg, ArgAction, Command};

use crate::refusal::Refusals;

/// What names the source instead of a word.
const INSTEAD_OF_WORDS: &str = "--disk=";

/// Rewrites `args` (the first one is the program's name) into the spelling `--flag=value`. What is unknown, lacks its
/// value, or contradicts itself is refused and left out, so that the rest can be looked at, too.
pub fn normalise(command: &Command, args: Vec<OsString>) -> (Vec<OsString>, Refusals) {
    let mut words = args.into_iter().peekable();
    let mut normaliser = Normaliser {
        root: command,
        command,
        output: words.next().into_iter().collect(),
        given: BTreeMap::new(),
        words: 0,
        doubtful: None,
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
            normaliser.word(word, &mut words);
        }
    }
    normaliser.finish()
}

struct Normaliser<'a> {
    root: &'a Command,
    command: &'a Command,
    output: Vec<OsString>,
    /// Values of the flags that may be given once.
    given: BTreeMap<String, OsString>,
    /// How many words have been given to the command.
    words: usize,
    /// What followed an unknown flag: its value, or a word for the command.
    doubtful: Option<OsString>,
    refusals: Refusals,
}

impl<'a> Normaliser<'a> {
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
            match nearest {
                Some(nearest) => self.assume(&nearest, value, rest),
                None if value.is_none() => self.pass_over(rest),
                None => {}
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
        let Some(arg) = self.find(long) else { return };
        if arg.get_action().takes_values() {
            if let Some(value) = value.map(OsStr::to_owned).or_else(|| rest.next_if(is_value)) {
                let mut word = format!("--{long}=").into_bytes();
                word.extend_from_slice(value.as_bytes());
                self.output.push(OsString::from_vec(word));
            }
            return;
        }
        // Whoever mistypes what would have shown the help wants something else first.
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            self.switch(long, value.filter(|value| truth(value).is_some()));
        }
        if value.is_none() && !self.takes_words() {
            self.pass_over(rest);
        }
    }

    /// Passes over the value of a flag that nobody knows, as far as it can be told from a word for the command.
    fn pass_over(&mut self, rest: &mut Peekable<impl Iterator<Item = OsString>>) {
        let is_command = |word: &OsString| self.is_at_root() && self.root.find_subcommand(word).is_some();
        if let Some(word) = rest.next_if(|word| is_value(word) && !is_command(word))
            && self.takes_words()
        {
            self.doubtful = Some(word);
        }
    }

    /// A word that belongs to no flag: the command's name, or what that command wants.
    fn word(&mut self, word: OsString, rest: &mut Peekable<impl Iterator<Item = OsString>>) {
        if !self.is_at_root() {
            self.words += 1;
            if self.words <= self.room_for_words() {
                self.output.push(word);
            } else {
                self.refusals
                    .add(format!("`{}` is one word too many", word.display()));
            }
            return;
        }
        if let Some(command) = self.root.find_subcommand(&word) {
            return self.enter(command);
        }
        let shown = word.to_string_lossy().into_owned();
        let names = self.root.get_subcommands().map(Command::get_name);
        let nearest = nearest(&shown, names);
        if let Some(command) = nearest.and_then(|name| self.root.find_subcommand(name)) {
            let name = command.get_name();
            self.refusals
                .add(format!("unknown command `{shown}`; did you mean `{name}`?"));
            self.enter(command);
        } else if let Some(long) = self.find(&shown).and_then(Arg::get_long).map(str::to_owned) {
            self.refusals
                .add(format!("unknown command `{shown}`; did you mean `--{long}`?"));
            self.assume(&long, None, rest);
        } else {
            self.refusals.add(format!(
                "`{shown}` is neither a command nor the value of a flag; a value with blanks needs quotes, a switch is \
                 turned off by -flag=false"
            ));
        }
    }

    fn enter(&mut self, command: &'a Command) {
        self.output.push(command.get_name().into());
        self.command = command;
        self.given.clear();
    }

    fn finish(mut self) -> (Vec<OsString>, Refusals) {
        let is_named = |word: &OsString| word.as_bytes().starts_with(INSTEAD_OF_WORDS.as_bytes());
        // A command that wants a word and has none but this was meant to have it.
        if self.words == 0 && !self.output.iter().any(is_named) {
            self.output.extend(self.doubtful.take());
        }
        (self.output, self.refusals)
    }

    fn is_at_root(&self) -> bool {
        std::ptr::eq(self.command, self.root)
    }

    fn takes_words(&self) -> bool {
        self.room_for_words() > 0
    }

    fn room_for_words(&self) -> usize {
        let room = |arg: &Arg| match arg.get_action() {
            ArgAction::Append => usize::MAX,
            _ => 1,
        };
        self.command
            .get_positionals()
            .map(room)
            .fold(0, usize::saturating_add)
    }

    fn switch(&mut self, long: &str, value: Option<&OsStr>) {
        let Some(on) = value.map_or(Some(true), truth) else {
            let shown = value.unwrap_or_default().to_string_lossy();
            self.refusals
                .add(format!("`--{long}={shown}`: the value must be true or false"));
            return;
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
        let shown = self.command.get_arguments().filter(|arg| !arg.is_hide_set());
        nearest(name, shown.filter_map(Arg::get_long))
    }
}

fn is_value(word: &OsString) -> bool {
    !word.as_bytes().starts_with(b"-")
}

/// What a switch was set to.
fn truth(value: &OsStr) -> Option<bool> {
    match value.to_string_lossy().to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Some(true),
        "false" | "f" | "0" => Some(false),
        _ => None,
    }
}

/// The name that was probably meant. Something of what was typed must be in it.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distances = known.map(|known| (distance(name, known), known));
    let (distance, nearest) = distances.min_by_key(|(distance, _)| *distance)?;
    let distance_max = (name.len() / 3).max(2).min(name.len().saturating_sub(1));
    (distance <= distance_max).then_some(nearest)
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
            .arg(Arg::new("dir").action(ArgAction::Append))
            .arg(Arg::new("disk").long("disk").action(ArgAction::Append))
            .arg(Arg::new("secret-file").long("secret-file"));
        let bandwidth = Command::new("bandwidth")
            .arg(Arg::new("limit").required(true))
            .arg(Arg::new("state").long("state").action(ArgAction::Set));
        let mut command = flags(Command::new("go2cloud"))
            .arg(Arg::new("off").long("off").hide(true).action(ArgAction::Append))
            .subcommand(sync)
            .subcommand(bandwidth);
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
        assert_eq!(run("g -check=false").unwrap(), "g --off=check");
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

    /// What is left of a line, and how often it was refused.
    fn left(line: &str) -> (String, usize) {
        let args = line.split(' ').map(OsString::from).collect();
        let (args, refusals) = normalise(&command(), args);
        let line = args.join(OsStr::new(" ")).into_string().unwrap();
        (line, refusals.as_slice().len())
    }

    #[test]
    fn each_mistake_is_refused_once_and_what_belongs_to_it_goes_with_it() {
        for (line, is_left) in [
            // The value of a flag that resembles none, in every spelling.
            ("g -zzzzzz value -check", "g --check"),
            ("g --zzzzzz value -check", "g --check"),
            ("g -zzzzzz=value -check", "g --check"),
            ("g --zzzzzz=value -check", "g --check"),
            ("g -check -zzzzzz", "g --check"),
            // Of one that resembles a flag.
            ("g -regio=R -check", "g --region=R --check"),
            ("g --REGION R -check", "g --region=R --check"),
            ("g -regoin -check", "g --check"),
            ("g -chek true -region R", "g --check --region=R"),
            ("g -chek=false", "g --off=check"),
            ("g -chek=perhaps", "g --check"),
            // What shows the help does not do so when it is mistyped.
            ("g -hlep", "g"),
            // One letter resembles nothing, and what is hidden is not recommended.
            ("g -x", "g"),
            ("g -of value -check", "g --check"),
            // A command, or a flag that has lost its dash.
            ("g snyc -secret-file k /srv", "g sync --secret-file=k /srv"),
            ("g -zzzzzz sync /srv", "g sync /srv"),
            ("g region R -check", "g --region=R --check"),
            ("g nonsense -check", "g --check"),
            // Words that a command wants are not taken for values, and the other way round.
            ("g sync -zzzzzz /srv", "g sync /srv"),
            ("g sync -zzzzzz value /srv", "g sync /srv"),
            ("g sync /srv -zzzzzz value", "g sync /srv"),
            ("g sync -disk=d -zzzzzz value", "g sync --disk=d"),
            ("g sync -chek /srv", "g sync --check /srv"),
            ("g sync -secretfile k /srv", "g sync --secret-file=k /srv"),
            ("g bandwidth -zzzzzz 100", "g bandwidth 100"),
            ("g bandwidth 100 KB/s", "g bandwidth 100"),
        ] {
            assert_eq!(left(line), (is_left.to_owned(), 1), "{line}");
        }
        assert_eq!(left("g -yyyyyy a -zzzzzz b nonsense").1, 3);
    }
}

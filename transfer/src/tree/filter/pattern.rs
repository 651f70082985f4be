//! One wildcard pattern, compiled, and how it is matched without allocating.
//!
//! `?` stands for one byte, `*` for any run of bytes, both never for a slash; two or more stars for any run whatever;
//! `[…]` for one byte of a class. A backslash takes the next byte literally, but only in patterns that hold a wildcard
//! at all. A class that is not closed, or names a class that does not exist, matches nothing.

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    /// No wildcard in it: compared as it is.
    Literal(Box<[u8]>),
    /// With wildcards.
    Wild(Box<[Token]>),
    /// Malformed: matches nothing.
    Nothing,
}

/// One element of a wildcard pattern.
#[derive(Clone, Debug)]
pub(super) enum Token {
    Byte(u8),
    /// `?`
    AnyByte,
    /// `[…]`
    Class(Box<Class>),
    /// `*`
    Star,
    /// `**` and longer.
    DoubleStar,
}

/// A set of bytes: bit `b % 64` of word `b / 64`.
#[derive(Clone, Debug, Default)]
pub(super) struct Class([u64; 4]);

/// The path to match, with the slashes that some rules see around it.
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    leading_slash: bool,
    len: usize,
}

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8], leading_slash: bool, trailing_slash: bool) -> Self {
        Self {
            bytes,
            leading_slash,
            len: bytes.len() + usize::from(leading_slash) + usize::from(trailing_slash),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The byte at `index`, `None` behind the end.
    pub(super) fn at(&self, index: usize) -> Option<u8> {
        if index >= self.len {
            return None;
        }
        let index = match (self.leading_slash, index) {
            (true, 0) => return Some(b'/'),
            (true, index) => index - 1,
            (false, index) => index,
        };
        Some(self.bytes.get(index).copied().unwrap_or(b'/'))
    }
}

impl Pattern {
    pub(super) fn compile(pattern: &[u8]) -> Self {
        if !pattern.iter().any(|byte| b"*[?".contains(byte)) {
            return Self::Literal(pattern.into());
        }
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut rest = pattern;
        while let [first, tail @ ..] = rest {
            rest = tail;
            tokens.push(match first {
                b'\\' => {
                    let [escaped, tail @ ..] = rest else {
                        return Self::Nothing;
                    };
                    rest = tail;
                    Token::Byte(*escaped)
                }
                b'?' => Token::AnyByte,
                b'*' => {
                    let more = rest.iter().take_while(|byte| **byte == b'*').count();
                    rest = &rest[more..];
                    if more > 0 { Token::DoubleStar } else { Token::Star }
                }
                b'[' => {
                    let Some((class, tail)) = Class::parse(rest) else {
                        return Self::Nothing;
                    };
                    rest = tail;
                    Token::Class(Box::new(class))
                }
                byte => Token::Byte(*byte),
            });
        }
        Self::Wild(tokens.into())
    }

    /// Whether the pattern matches `text` from `start` to its end.
    pub(super) fn matches(&self, text: &Text<'_>, start: usize) -> bool {
        match self {
            Self::Literal(bytes) => {
                text.len() - start == bytes.len()
                    && bytes
                        .iter()
                        .enumerate()
                        .all(|(i, byte)| text.at(start + i) == Some(*byte))
            }
            Self::Wild(tokens) => matches(tokens, text, start),
            Self::Nothing => false,
        }
    }
}

/// Where to go on when a star has to take one byte more.
#[derive(Clone, Copy)]
struct Backup {
    token: usize,
    at: usize,
}

/// Greedy matching with two places to return to: the last `*`, and the last `**` before it. No earlier star needs a
/// second look: the leftmost place where all before the last star matches leaves the most to choose from.
fn matches(tokens: &[Token], text: &Text<'_>, start: usize) -> bool {
    let (mut token, mut at) = (0, start);
    let (mut star, mut double_star): (Option<Backup>, Option<Backup>) = (None, None);
    loop {
        let here = text.at(at);
        let step = match tokens.get(token) {
            Some(Token::DoubleStar) => {
                token += 1;
                double_star = Some(Backup { token, at });
                star = None;
                continue;
            }
            Some(Token::Star) => {
                token += 1;
                star = Some(Backup { token, at });
                continue;
            }
            None if here.is_none() => return true,
            None => false,
            Some(Token::Byte(byte)) => here == Some(*byte),
            Some(Token::AnyByte) => here.is_some_and(|byte| byte != b'/'),
            Some(Token::Class(class)) => here.is_some_and(|byte| byte != b'/' && class.holds(byte)),
        };
        if step {
            token += 1;
            at += 1;
            continue;
        }
        let extends = |backup: &mut Backup, over_slash: bool| {
            let fits = text.at(backup.at).is_some_and(|byte| over_slash || byte != b'/');
            backup.at += usize::from(fits);
            fits.then_some((backup.token, backup.at))
        };
        let again = star
            .as_mut()
            .and_then(|backup| extends(backup, false))
            .or_else(|| {
                star = None;
                double_star.as_mut().and_then(|backup| extends(backup, true))
            });
        match again {
            Some(place) => (token, at) = place,
            None => return false,
        }
    }
}

impl Class {
    fn holds(&self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] >> (byte % 64) & 1 == 1
    }

    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte / 64)] |= 1 << (byte % 64);
    }

    /// Reads what follows `[` up to the closing `]`; returns the class and what follows it.
    fn parse(mut rest: &[u8]) -> Option<(Self, &[u8])> {
        let mut class = Self::default();
        let negated = matches!(rest.first(), Some(b'!' | b'^'));
        if negated {
            rest = &rest[1..];
        }
        // What a following `-` starts a range from; nothing after a range or a named class.
        let mut from: Option<u8> = None;
        // The first byte is a member even if it is `]`.
        let mut first = true;
        loop {
            let (byte, tail) = rest.split_first()?;
            match (byte, from, tail) {
                (b']', ..) if !first => {
                    if negated {
                        class.0 = class.0.map(|word| !word);
                    }
                    return Some((class, tail));
                }
                (b'\\', _, tail) => {
                    let (escaped, tail) = tail.split_first()?;
                    class.add(*escaped);
                    (from, rest) = (Some(*escaped), tail);
                }
                (b'-', Some(low), [high, tail @ ..]) if *high != b']' => {
                    let (high, tail) = match (high, tail) {
                        (b'\\', tail) => tail.split_first()?,
                        (high, tail) => (high, tail),
                    };
                    (low..=*high).for_each(|byte| class.add(byte));
                    (from, rest) = (None, tail);
                }
                (b'[', _, [b':', named @ ..]) => {
                    let end = named.iter().position(|byte| *byte == b']')?;
                    if end > 0 && named[end - 1] == b':' {
                        class.add_named(&named[..end - 1])?;
                        (from, rest) = (None, &named[end + 1..]);
                    } else {
                        class.add(b'[');
                        (from, rest) = (Some(b'['), tail);
                    }
                }
                (byte, _, tail) => {
                    class.add(*byte);
                    (from, rest) = (Some(*byte), tail);
                }
            }
            first = false;
        }
    }

    /// Adds a class of POSIX as the C locale has it.
    fn add_named(&mut self, name: &[u8]) -> Option<()> {
        let member: fn(&u8) -> bool = match name {
            b"alnum" => u8::is_ascii_alphanumeric,
            b"alpha" => u8::is_ascii_alphabetic,
            b"blank" => |byte| matches!(byte, b' ' | b'\t'),
            b"cntrl" => u8::is_ascii_control,
            b"digit" => u8::is_ascii_digit,
            b"graph" => u8::is_ascii_graphic,
            b"lower" => u8::is_ascii_lowercase,
            b"print" => |byte| matches!(byte, b' '..=b'~'),
            b"punct" => u8::is_ascii_punctuation,
            b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
            b"upper" => u8::is_ascii_uppercase,
            b"xdigit" => u8::is_ascii_hexdigit,
            _ => return None,
        };
        (0..=255u8).filter(member).for_each(|byte| self.add(byte));
        Some(())
    }
}

//! Parameters as forms: `Filters.0.Values.1=web+01`, in a query or in a body.
//!
//! A form holds text only, so it becomes JSON under the guidance of a request's [`Structure`]. Lists may count from 0 or
//! from 1 and may have holes: the reference does both, so only the order of the indices counts.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use crate::schema::{Kind, Problem, Structure, Violation, push_step, violation};

/// A dotted name may have this many steps. The deepest of the API has five: `DataDisksInfo.0.Partitions.0.Size`, or
/// six with `Block.Supported`.
const STEPS_MAX: usize = 8;

/// A form that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A `%` is not followed by two hexadecimal digits.
    #[error("The form holds a % that is not followed by two hexadecimal digits.")]
    Escape,
    /// The decoded text is not UTF-8.
    #[error("The form is not UTF-8.")]
    NotUtf8,
}

/// Decodes `a=1&b=2`. `+` is a space; escapes may be in either case; pairs keep their order.
///
/// # Errors
/// When an escape is incomplete or the text is not UTF-8.
pub fn decode(form: &[u8]) -> Result<Vec<(String, String)>, FormError> {
    form.split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let middle = pair.iter().position(|byte| *byte == b'=');
            let (name, value) = middle.map_or((pair, &[][..]), |at| (&pair[..at], &pair[at + 1..]));
            Ok((decode_part(name)?, decode_part(value)?))
        })
        .collect()
}

fn decode_part(part: &[u8]) -> Result<String, FormError> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(*digit).to_digit(16));
                let (high, low) = (
                    digit().ok_or(FormError::Escape)?,
                    digit().ok_or(FormError::Escape)?,
                );
                u8::try_from(high << 4 | low).expect("two hexadecimal digits make one byte")
            }
            byte => *byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| FormError::NotUtf8)
}

/// Encodes pairs by RFC 3986, with upper-case escapes. Names are letters, digits and dots and stay as they are.
#[must_use]
pub fn encode(pairs: &[(String, String)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        encode_part(name, &mut text);
        text.push('=');
        encode_part(value, &mut text);
    }
    text
}

fn encode_part(part: &str, text: &mut String) {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// Flattens a request into parameters; lists count from 0, absent and null members are left out.
#[must_use]
pub fn flatten(request: &Value) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    flatten_at(request, &mut String::new(), &mut pairs);
    pairs
}

fn flatten_at(value: &Value, path: &mut String, pairs: &mut Vec<(String, String)>) {
    let mut member = |step: &str, value: &Value| {
        let length = path.len();
        push_step(path, step);
        flatten_at(value, path, pairs);
        path.truncate(length);
    };
    match value {
        Value::Null => {}
        Value::Object(members) => members.iter().for_each(|(name, value)| member(name, value)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(at, value)| member(&at.to_string(), value)),
        Value::String(text) => pairs.push((path.clone(), text.clone())),
        Value::Bool(_) | Value::Number(_) => pairs.push((path.clone(), value.to_string())),
    }
}

/// Turns parameters into the JSON of a request that `structure` describes. Common parameters must be taken out before.
///
/// # Errors
/// The first parameter that is unknown, given twice, or not of its type.
pub fn typed(structure: &'static Structure, parameters: &[(String, String)]) -> Result<Value, Violation> {
    let mut root = BTreeMap::new();
    for (name, value) in parameters {
        let steps: Vec<&str> = name.split('.').collect();
        if steps.len() > STEPS_MAX {
            return Err(violation(name, Problem::Unknown));
        }
        insert(&mut root, &steps, value).ok_or_else(|| violation(name, Problem::Repeated))?;
    }
    let root = Node::Branch(root);
    Ok(build(Kind::Structure(structure), &root, &mut String::new())?
        .unwrap_or_else(|| Value::Object(Map::new())))
}

enum Node<'p> {
    Leaf(&'p str),
    Branch(BTreeMap<&'p str, Node<'p>>),
}

/// `None` when the place is taken.
fn insert<'p>(branch: &mut BTreeMap<&'p str, Node<'p>>, steps: &[&'p str], value: &'p str) -> Option<()> {
    let (first, rest) = steps.split_first()?;
    if rest.is_empty() {
        return branch.insert(first, Node::Leaf(value)).is_none().then_some(());
    }
    match branch
        .entry(first)
        .or_insert_with(|| Node::Branch(BTreeMap::new()))
    {
        Node::Leaf(_) => None,
        Node::Branch(branch) => insert(branch, rest, value),
    }
}

/// `None` for a value that was left empty where a text cannot stand.
fn build(kind: Kind, node: &Node<'_>, path: &mut String) -> Result<Option<Value>, Violation> {
    match (kind, node) {
        (Kind::String, Node::Leaf(text)) => Ok(Some(Value::String((*text).to_owned()))),
        (_, Node::Leaf("")) => Ok(None),
        (Kind::Structure(structure), Node::Branch(members)) => {
            build_object(structure, members, path).map(Some)
        }
        (Kind::List(item), Node::Branch(items)) => build_list(*item, items, path).map(Some),
        (_, Node::Leaf(text)) => scalar(kind, text)
            .map(Some)
            .ok_or_else(|| violation(path, Problem::WrongType(kind.wanted()))),
        (_, Node::Branch(_)) => Err(violation(path, Problem::WrongType(kind.wanted()))),
    }
}

fn build_object(
    structure: &Structure,
    nodes: &BTreeMap<&str, Node<'_>>,
    path: &mut String,
) -> Result<Value, Violation> {
    let mut members = Map::new();
    for (name, node) in nodes {
        let length = path.len();
        push_step(path, name);
        let field = structure
            .field(name)
            .ok_or_else(|| violation(path, Problem::Unknown))?;
        if let Some(value) = build(field.kind, node, path)? {
            members.insert((*name).to_owned(), value);
        }
        path.truncate(length);
    }
    Ok(Value::Object(members))
}

fn build_list(item: Kind, nodes: &BTreeMap<&str, Node<'_>>, path: &mut String) -> Result<Value, Violation> {
    let mut ordered = BTreeMap::new();
    for (step, node) in nodes {
        let length = path.len();
        push_step(path, step);
        let index: u32 = step.parse().map_err(|_| violation(path, Problem::Unknown))?;
        if let Some(value) = build(item, node, path)?
            && ordered.insert(index, value).is_some()
        {
            return Err(violation(path, Problem::Repeated));
        }
        path.truncate(length);
    }
    Ok(Value::Array(ordered.into_values().collect()))
}

fn scalar(kind: Kind, text: &str) -> Option<Value> {
    match kind {
        Kind::Unsigned => text.parse::<u64>().ok().map(Value::from),
        Kind::Signed => text.parse::<i64>().ok().map(Value::from),
        Kind::Float => text
            .parse::<f64>()
            .ok()
            .and_then(Number::from_f64)
            .map(Value::Number),
        Kind::Bool if text.eq_ignore_ascii_case("true") => Some(Value::Bool(true)),
        Kind::Bool if text.eq_ignore_ascii_case("false") => Some(Value::Bool(false)),
        Kind::Bool | Kind::String | Kind::List(_) | Kind::Structure(_) => None,
    }
}

#[cfg(test)]
mod tests;

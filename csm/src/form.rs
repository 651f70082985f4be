//! Parameters as forms: `Filters.0.Values.1=web+01`, in a query or in a body.
//!
//! A form holds text only and lists as numbers in names; giving the text its types back is a server's work, because its
//! tables name the code that each violation is answered with.

use serde_json::Value;

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
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(step);
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

#[cfg(test)]
mod tests;

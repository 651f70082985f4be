//! What a structure of the API holds: names, types, and which members a request must have.
//!
//! Each structure describes itself once, in the macro `structure!`, which yields both the Rust type and its
//! [`Structure`]. A server checks a request against that description before it reads it ([`Structure::check`]), so a
//! violation is named by its path and kind; form parameters, which are all text, become typed JSON by it
//! ([`crate::form`]). It does not know ranges, lengths or formats: those are the server's rules.

use serde_json::Value;
use std::fmt;

use crate::secret::Secret;

mod structure_macro;

pub(crate) use structure_macro::structure;

/// The description of one structure.
#[derive(Debug)]
pub struct Structure {
    /// Its name in the reference.
    pub name: &'static str,
    /// Its members, in the reference's order.
    pub fields: &'static [Field],
}

/// One member of a structure.
#[derive(Debug)]
pub struct Field {
    /// Its name on the wire.
    pub name: &'static str,
    /// Whether a request must have it.
    pub required: bool,
    /// Its type.
    pub kind: Kind,
}

/// A type of the API.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Text.
    String,
    /// Integer of 0 to 2⁶⁴ − 1.
    Unsigned,
    /// Integer of −2⁶³ to 2⁶³ − 1.
    Signed,
    /// True or false.
    Bool,
    /// Number.
    Float,
    /// Array of one type.
    List(&'static Kind),
    /// Structure.
    Structure(&'static Structure),
}

/// A Rust type that stands for a [`Kind`].
pub trait Shape {
    /// Which one.
    const KIND: Kind;
}

impl Shape for String {
    const KIND: Kind = Kind::String;
}
impl Shape for Secret {
    const KIND: Kind = Kind::String;
}
impl Shape for u64 {
    const KIND: Kind = Kind::Unsigned;
}
impl Shape for i64 {
    const KIND: Kind = Kind::Signed;
}
impl Shape for bool {
    const KIND: Kind = Kind::Bool;
}
impl Shape for f64 {
    const KIND: Kind = Kind::Float;
}
impl<T: Shape> Shape for Vec<T> {
    const KIND: Kind = Kind::List(&T::KIND);
}

/// A structure of the API, as a Rust type.
pub trait Described {
    /// Its description.
    const STRUCTURE: Structure;
}

/// What is wrong with a request, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the member, as form parameters spell it: `SystemDiskInfo.Partitions.0.Size`.
    pub path: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// Kinds of [`Violation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// A required member is absent, null, or an empty list.
    Missing,
    /// The structure has no such member.
    Unknown,
    /// A form parameter was given more than once, or as a value and as an object.
    Repeated,
    /// The value has another type; the text names the one wanted.
    WrongType(&'static str),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem {
            Problem::Missing => write!(f, "The request lacks the parameter `{}`.", self.path),
            Problem::Unknown => write!(f, "The parameter `{}` is not known.", self.path),
            Problem::Repeated => write!(f, "The parameter `{}` is given more than once.", self.path),
            Problem::WrongType(wanted) => write!(f, "The parameter `{}` must be {wanted}.", self.path),
        }
    }
}

impl Structure {
    /// The member called `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Checks a request's parameters against this description.
    ///
    /// # Errors
    /// The first violation: wrong types and unknown members first, then missing ones.
    pub fn check(&self, value: &Value) -> Result<(), Violation> {
        self.check_at(value, &mut String::new())
    }

    fn check_at(&self, value: &Value, path: &mut String) -> Result<(), Violation> {
        let Value::Object(members) = value else {
            return Err(violation(path, Problem::WrongType("an object")));
        };
        for (name, member) in members {
            let length = path.len();
            push_step(path, name);
            match self.field(name) {
                None => return Err(violation(path, Problem::Unknown)),
                Some(_) if member.is_null() => {}
                Some(field) => field.kind.check_at(member, path)?,
            }
            path.truncate(length);
        }
        for field in self.fields.iter().filter(|field| field.required) {
            let empty = match members.get(field.name) {
                None | Some(Value::Null) => true,
                Some(Value::Array(items)) => items.is_empty(),
                Some(_) => false,
            };
            if empty {
                push_step(path, field.name);
                return Err(violation(path, Problem::Missing));
            }
        }
        Ok(())
    }
}

impl Kind {
    fn check_at(self, value: &Value, path: &mut String) -> Result<(), Violation> {
        let fits = match self {
            Self::String => value.is_string(),
            Self::Unsigned => value.is_u64(),
            Self::Signed => value.is_i64(),
            Self::Bool => value.is_boolean(),
            Self::Float => value.is_number(),
            Self::Structure(structure) => return structure.check_at(value, path),
            Self::List(item) => {
                let Value::Array(items) = value else {
                    return Err(violation(path, Problem::WrongType(self.wanted())));
                };
                for (index, member) in items.iter().enumerate() {
                    let length = path.len();
                    push_step(path, &index.to_string());
                    item.check_at(member, path)?;
                    path.truncate(length);
                }
                true
            }
        };
        if fits {
            Ok(())
        } else {
            Err(violation(path, Problem::WrongType(self.wanted())))
        }
    }

    /// What a value of this type is called in a message.
    #[must_use]
    pub fn wanted(self) -> &'static str {
        match self {
            Self::String => "a string",
            Self::Unsigned => "an integer of at least 0",
            Self::Signed => "an integer",
            Self::Bool => "true or false",
            Self::Float => "a number",
            Self::List(_) => "a list",
            Self::Structure(_) => "an object",
        }
    }
}

/// Reads null as the default: servers of this API write null for what they have not set.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    Ok(<Option<T> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}

pub(crate) fn violation(path: &str, problem: Problem) -> Violation {
    Violation {
        path: path.to_owned(),
        problem,
    }
}

pub(crate) fn push_step(path: &mut String, step: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(step);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::types::{CreateMigrationJob, DescribeMigrationJobDeniedActions};

    fn check(value: &Value) -> Result<(), (String, Problem)> {
        CreateMigrationJob::STRUCTURE
            .check(value)
            .map_err(|v| (v.path, v.problem))
    }

    fn valid() -> Value {
        json!({"SourceServerId": "s", "SystemDiskInfo": {"Device": "/dev/vda", "Size": 50}, "Mode": 0, "TargetRegion": "r"})
    }

    #[test]
    fn names_the_path_of_each_violation() {
        assert_eq!(check(&valid()), Ok(()));
        let mut value = valid();
        value["SystemDiskInfo"]["Partitions"] = json!([{"Device": "/dev/vda1", "Size": -1}]);
        let wanted = Problem::WrongType("an integer of at least 0");
        assert_eq!(
            check(&value),
            Err(("SystemDiskInfo.Partitions.0.Size".into(), wanted))
        );
        let mut value = valid();
        value["DataDisksInfo"] = json!([{"Index": 1, "Size": 10}]);
        assert_eq!(
            check(&value),
            Err(("DataDisksInfo.0.Device".into(), Problem::Missing))
        );
        let mut value = valid();
        value["Colour"] = json!("red");
        assert_eq!(check(&value), Err(("Colour".into(), Problem::Unknown)));
        let mut value = valid();
        value["TargetRegion"] = Value::Null;
        assert_eq!(check(&value), Err(("TargetRegion".into(), Problem::Missing)));
        assert_eq!(
            check(&json!([])),
            Err((String::new(), Problem::WrongType("an object")))
        );
    }

    #[test]
    fn an_empty_required_list_is_missing() {
        let violation = DescribeMigrationJobDeniedActions::STRUCTURE
            .check(&json!({"JobIds": []}))
            .unwrap_err();
        assert_eq!(
            (violation.path.as_str(), violation.problem),
            ("JobIds", Problem::Missing)
        );
    }
}

//! What a structure of the API holds: names, types, and which members a request must have.
//!
//! Each structure describes itself once, in the macro `structure!`, which yields both the Rust type and its
//! [`Structure`]. Servers compare their own tables with it, and tests draw requests from it. It does not know ranges,
//! lengths or formats: those are a server's rules.

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

impl Structure {
    /// The member called `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
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

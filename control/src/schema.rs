//! Checking of parameters against tables.
//!
//! Each action has a table (`schema/csm.rs`, `schema/cvm.rs`, `schema/own.rs`) that says for every parameter what the
//! reference says: type, length, range, characters, format, and which code answers a violation. [`check`] turns the
//! untrusted tree into [`Params`] in which every value has the type that its table names. Rules that need the world (does
//! this job exist?) are not here but with the actions.

mod csm;
mod cvm;
mod form;
mod own;

use serde_json::{Map, Value};

use crate::code::{ApiError, ApiResult, Code};

pub use form::{
    Check, is_instance_id, is_job_id, is_lighthouse_id, is_source_id, is_virtual_instance_type, parse_time,
    version_numbers,
};

/// Which of the APIs an action belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Server migration.
    Csm,
    /// The part of the compute API that a migration needs.
    Cvm,
    /// What neither has: declaring instances, enrolment, the audit trail.
    Own,
}

impl Service {
    /// All services.
    pub const ALL: [Service; 3] = [Service::Csm, Service::Cvm, Service::Own];

    /// The name in host names and credential scopes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Service::Csm => "csm",
            Service::Cvm => "cvm",
            Service::Own => "go2cloud",
        }
    }

    /// The only version that is served.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Service::Csm => "2021-09-15",
            Service::Cvm => "2017-03-12",
            Service::Own => "2026-11-01",
        }
    }

    /// The table of actions.
    #[must_use]
    pub const fn actions(self) -> &'static [Action] {
        match self {
            Service::Csm => csm::ACTIONS,
            Service::Cvm => cvm::ACTIONS,
            Service::Own => own::ACTIONS,
        }
    }
}

/// Whether an action changes anything: changes are audited and protected against replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Only reads.
    Read,
    /// Changes state.
    Change,
    /// Changes state, many times a minute, from every source: audited, but kept for a shorter time.
    Report,
}

/// Who may call an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Account keys only.
    Account,
    /// Account keys, and temporary credentials within their own source.
    Agent,
}

/// One action: a row of the table.
#[derive(Debug)]
pub struct Action {
    /// The name on the wire.
    pub name: &'static str,
    /// Whether it changes anything.
    pub effect: Effect,
    /// Who may call it.
    pub audience: Audience,
    /// Whether a region must be given.
    pub regional: bool,
    /// Its parameters.
    pub fields: &'static [Field],
}

/// One parameter or member of a structure.
#[derive(Debug)]
pub struct Field {
    /// The name on the wire.
    pub name: &'static str,
    /// Whether it must be given.
    pub required: bool,
    /// Type and limits.
    pub kind: Kind,
}

/// A required parameter.
const fn req(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        required: true,
        kind,
    }
}

/// An optional parameter.
const fn opt(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        required: false,
        kind,
    }
}

/// Type and limits of a value.
#[derive(Debug)]
pub enum Kind {
    /// Characters.
    Text(Text),
    /// A whole number within bounds, and the code for one below or above.
    Uint {
        /// Least.
        min: u64,
        /// Greatest.
        max: u64,
        /// The code for less.
        below: Code,
        /// The code for more.
        above: Code,
    },
    /// Yes or no.
    Bool,
    /// A list, at most so long.
    List {
        /// What it is a list of.
        item: &'static Kind,
        /// Greatest number of elements.
        max: usize,
        /// The code for more.
        above: Code,
    },
    /// A structure.
    Object(&'static [Field]),
}

/// Limits of a text.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// Least number of characters, and the code for fewer.
    pub min: (usize, Code),
    /// Greatest number of characters, and the code for more.
    pub max: (usize, Code),
    /// The code for a forbidden character (quotes, semicolon, backslash, control characters), if they are forbidden.
    pub forbidden: Option<Code>,
    /// Further form.
    pub check: Check,
}

/// Greatest length of a text for which the reference names none: no field of the reference needs more.
const TEXT_CHARS_MAX: usize = 1024;

impl Text {
    /// Any text up to the general limit.
    const fn any() -> Self {
        let code = Code::InvalidParameterValue;
        Self {
            min: (0, code),
            max: (TEXT_CHARS_MAX, code),
            forbidden: None,
            check: Check::Any,
        }
    }

    const fn length(mut self, min: (usize, Code), max: (usize, Code)) -> Self {
        self.min = min;
        self.max = max;
        self
    }

    const fn plain(mut self) -> Self {
        self.forbidden = Some(Code::ParameterValueContainsIllegalCharacter);
        self
    }

    const fn form(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    const fn kind(self) -> Kind {
        Kind::Text(self)
    }

    fn verify(&self, path: &str, text: &str) -> ApiResult<()> {
        let count = text.chars().count();
        if count < self.min.0 {
            return Err(ApiError::new(
                self.min.1,
                format!("{path} must have at least {} characters", self.min.0),
            ));
        }
        if count > self.max.0 {
            return Err(ApiError::new(
                self.max.1,
                format!("{path} has {count} characters; {} are allowed", self.max.0),
            ));
        }
        if let Some(code) = self.forbidden
            && let Some(bad) = text
                .chars()
                .find(|c| matches!(c, '\'' | '"' | ';' | '\\') || c.is_control())
        {
            return Err(ApiError::new(code, format!("{path} must not contain {bad:?}")));
        }
        self.check.verify(path, text)
    }
}

/// Any text.
const TEXT: Kind = Text::any().kind();

/// A whole number.
const fn uint(min: u64, max: u64) -> Kind {
    Kind::Uint {
        min,
        max,
        below: Code::InvalidParameterValue,
        above: Code::InvalidParameterValue,
    }
}

/// How values were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Typed JSON.
    Json,
    /// Query string or form: every leaf is text, lists are numbered.
    Form,
}

/// Parameters that passed their table.
#[derive(Clone, Debug, Default)]
pub struct Params(Map<String, Value>);

impl Params {
    /// A text, if given.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A required text; the table guarantees it.
    #[must_use]
    pub fn required(&self, name: &str) -> &str {
        self.text(name).unwrap_or_default()
    }

    /// A text that is given and not empty, owned.
    #[must_use]
    pub fn owned(&self, name: &str) -> String {
        self.required(name).to_owned()
    }

    /// A number, if given.
    #[must_use]
    pub fn uint(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(Value::as_u64)
    }

    /// A flag; absent is no.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// A structure or list, if given.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The elements of a list; absent is empty.
    #[must_use]
    pub fn list(&self, name: &str) -> &[Value] {
        self.0
            .get(name)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    /// The texts of a list; absent is empty.
    #[must_use]
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.list(name)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    /// A structure's members as parameters of their own; absent is empty.
    #[must_use]
    pub fn object(&self, name: &str) -> Params {
        Params(
            self.0
                .get(name)
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default(),
        )
    }
}

/// Finds an action of a service.
#[must_use]
pub fn find(service: Service, name: &str) -> Option<&'static Action> {
    service.actions().iter().find(|action| action.name == name)
}

/// Checks a tree against an action's table.
///
/// # Errors
///
/// The code that the reference names for the first violation, in the order: unknown names, then the table's order.
pub fn check(action: &Action, tree: Map<String, Value>, encoding: Encoding) -> ApiResult<Params> {
    check_fields(action.fields, tree, encoding, "").map(Params)
}

fn check_fields(
    fields: &[Field],
    mut tree: Map<String, Value>,
    encoding: Encoding,
    path: &str,
) -> ApiResult<Map<String, Value>> {
    if let Some(name) = tree
        .keys()
        .find(|name| !fields.iter().any(|field| field.name == name.as_str()))
    {
        let shown: String = name.chars().take(64).collect();
        return Err(ApiError::new(
            Code::UnknownParameter,
            format!("there is no parameter {path}{shown}"),
        ));
    }
    let mut out = Map::new();
    for field in fields {
        let path = format!("{path}{}", field.name);
        let given = tree
            .remove(field.name)
            .filter(|value| !is_absent(value, field, encoding));
        match given {
            None if field.required => {
                return Err(ApiError::new(
                    Code::MissingParameter,
                    format!("{path} is required"),
                ));
            }
            None => {}
            Some(value) => {
                out.insert(
                    field.name.to_owned(),
                    check_value(&field.kind, value, encoding, &path)?,
                );
            }
        }
    }
    Ok(out)
}

/// Null is absent; so is an empty list that is required, and an empty form value where a text cannot stand.
fn is_absent(value: &Value, field: &Field, encoding: Encoding) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => field.required && items.is_empty(),
        Value::String(text) => {
            encoding == Encoding::Form && text.is_empty() && !matches!(field.kind, Kind::Text(_))
        }
        _ => false,
    }
}

fn check_value(kind: &Kind, value: Value, encoding: Encoding, path: &str) -> ApiResult<Value> {
    let wrong = |what: &str| ApiError::new(Code::InvalidParameter, format!("{path} must be {what}"));
    match kind {
        Kind::Text(text) => {
            let value = match value {
                Value::String(value) => value,
                _ => return Err(wrong("a string")),
            };
            text.verify(path, &value)?;
            Ok(Value::String(value))
        }
        Kind::Uint {
            min,
            max,
            below,
            above,
        } => {
            let number = read_number(value, encoding).ok_or_else(|| wrong("a whole number"))?;
            if number < i128::from(*min) {
                return Err(ApiError::new(*below, format!("{path} must be at least {min}")));
            }
            u64::try_from(number)
                .ok()
                .filter(|number| number <= max)
                .map(Value::from)
                .ok_or_else(|| ApiError::new(*above, format!("{path} must be at most {max}")))
        }
        Kind::Bool => match value {
            Value::Bool(flag) => Ok(Value::Bool(flag)),
            Value::String(text) if encoding == Encoding::Form => match text.to_ascii_lowercase().as_str() {
                "true" | "1" => Ok(Value::Bool(true)),
                "false" | "0" => Ok(Value::Bool(false)),
                _ => Err(wrong("true or false")),
            },
            _ => Err(wrong("true or false")),
        },
        Kind::List { item, max, above } => {
            let items = read_list(value, encoding).ok_or_else(|| wrong("a list"))?;
            if items.len() > *max {
                return Err(ApiError::new(
                    *above,
                    format!("{path} has {} elements; {max} are allowed", items.len()),
                ));
            }
            let checked = items.into_iter().enumerate();
            checked
                .map(|(index, value)| check_value(item, value, encoding, &format!("{path}.{index}")))
                .collect()
        }
        Kind::Object(fields) => match value {
            Value::Object(tree) => {
                check_fields(fields, tree, encoding, &format!("{path}.")).map(Value::Object)
            }
            _ => Err(wrong("a structure")),
        },
    }
}

/// A whole number; out of `u64` is still a number, so that the answer speaks of its size.
fn read_number(value: Value, encoding: Encoding) -> Option<i128> {
    match value {
        Value::Number(number) => number
            .as_u64()
            .map(i128::from)
            .or_else(|| number.as_i64().map(i128::from))
            .or_else(|| {
                number
                    .as_f64()
                    .filter(|float| float.fract() == 0.0 && float.abs() > 1e18)
                    .map(|float| float as i128)
            }),
        Value::String(text) if encoding == Encoding::Form && text.len() <= 30 => text.parse().ok(),
        _ => None,
    }
}

/// A list; in a form, members numbered from 0 or from 1 (the reference shows both), ordered by number.
fn read_list(value: Value, encoding: Encoding) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) => Some(items),
        Value::Object(members) if encoding == Encoding::Form => {
            let mut numbered = members
                .into_iter()
                .map(|(key, value)| key.parse::<u32>().ok().map(|number| (number, value)))
                .collect::<Option<Vec<_>>>()?;
            numbered.sort_by_key(|(number, _)| *number);
            Some(numbered.into_iter().map(|(_, value)| value).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;

//! Filters and paging of the lists.

use serde_json::Value;

use crate::code::{ApiError, ApiResult, Code};
use crate::schema::Params;

/// One filter: a name, and values of which one must match.
#[derive(Clone, Debug)]
pub struct Filter {
    /// What is compared.
    pub name: String,
    /// What it may be.
    pub values: Vec<String>,
}

impl Filter {
    /// Whether one of the values is this.
    #[must_use]
    pub fn has(&self, text: &str) -> bool {
        self.values.iter().any(|value| value == text)
    }
}

/// Filters of which all must match.
#[derive(Clone, Debug)]
pub struct Filters(pub Vec<Filter>);

impl Filters {
    /// Reads them from a call; only these names are known.
    ///
    /// # Errors
    ///
    /// `unknown` for another name.
    pub fn read(params: &Params, names: &[&str], unknown: Code) -> ApiResult<Self> {
        let mut filters = Vec::new();
        for filter in params.list("Filters") {
            let name = filter["Name"].as_str().unwrap_or_default();
            let is_tag = name.starts_with("tag:") && names.contains(&"tag:");
            if !is_tag && !names.contains(&name) {
                let message = format!("there is no filter {name:.64}; there are {}", names.join(", "));
                return Err(ApiError::new(unknown, message));
            }
            let values = filter["Values"].as_array().map(Vec::as_slice).unwrap_or_default();
            let values = values
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            filters.push(Filter {
                name: name.to_owned(),
                values,
            });
        }
        Ok(Self(filters))
    }

    /// Refuses values of a filter that do not have its form.
    ///
    /// # Errors
    ///
    /// `code` for the first such value.
    pub fn form(&self, name: &str, fits: impl Fn(&str) -> bool, code: Code) -> ApiResult<()> {
        for value in self
            .0
            .iter()
            .filter(|filter| filter.name == name)
            .flat_map(|filter| &filter.values)
        {
            if !fits(value) {
                return Err(ApiError::new(code, format!("{value:.64} is no {name}")));
            }
        }
        Ok(())
    }

    /// Whether one of the filters is called this.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        self.0.iter().any(|filter| filter.name == name)
    }

    /// Whether a filter asks for this value.
    #[must_use]
    pub fn asks(&self, name: &str, value: &str) -> bool {
        self.0
            .iter()
            .any(|filter| filter.name == name && filter.has(value))
    }

    /// Whether all match, each asked by itself.
    pub fn all(&self, matches: impl Fn(&Filter) -> bool) -> bool {
        self.0.iter().all(matches)
    }
}

/// The part of a list that is asked for, and the length of the whole.
#[must_use]
pub fn page<T>(items: Vec<T>, params: &Params) -> (usize, Vec<T>) {
    let total = items.len();
    let offset = params
        .uint("Offset")
        .and_then(|offset| usize::try_from(offset).ok())
        .unwrap_or(0);
    let limit = params
        .uint("Limit")
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(20);
    (total, items.into_iter().skip(offset).take(limit).collect())
}

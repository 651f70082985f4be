//! Regions and zones: names that the operator chose.

use serde_json::{Value, json};

use super::{Answer, answer};
use crate::app::{App, Call};

/// The zone of a region: one each.
pub(super) fn zone_of(region: &str) -> String {
    format!("{region}-1")
}

/// Whether it is the zone of a region that is served.
pub(super) fn is_zone(app: &App, zone: &str) -> bool {
    app.settings.regions.iter().any(|region| zone_of(region) == zone)
}

pub(super) fn regions(app: &App) -> Answer {
    let set: Vec<Value> = app
        .settings
        .regions
        .iter()
        .map(|region| json!({"Region": region, "RegionName": region, "RegionState": "AVAILABLE"}))
        .collect();
    answer([("TotalCount", set.len().into()), ("RegionSet", set.into())])
}

pub(super) fn zones(_app: &App, call: &Call) -> Answer {
    let zone = zone_of(&call.region);
    let set = json!([{"Zone": zone, "ZoneName": zone, "ZoneId": "1", "ZoneState": "AVAILABLE"}]);
    answer([("TotalCount", 1.into()), ("ZoneSet", set)])
}

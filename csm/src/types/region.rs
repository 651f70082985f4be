//! Regions and zones.

use crate::schema::structure;

structure! {
    /// Request: list regions; Region need not be sent.
    pub struct DescribeRegions {}
}

structure! {
    /// Answer of [`DescribeRegions`].
    pub struct DescribeRegionsResponse {
        /// Number of matching items.
        required total_count: u64 => "TotalCount",
        /// Regions.
        required region_set: Vec<RegionInfo> => "RegionSet",
    }
}

structure! {
    /// Request: list availability zones of a region.
    pub struct DescribeZones {}
}

structure! {
    /// Answer of [`DescribeZones`].
    pub struct DescribeZonesResponse {
        /// Number of matching items.
        required total_count: u64 => "TotalCount",
        /// Zones.
        required zone_set: Vec<ZoneInfo> => "ZoneSet",
    }
}

structure! {
    /// Region.
    pub struct RegionInfo {
        /// Name, e.g. ap-guangzhou.
        required region: String => "Region",
        /// Description.
        required region_name: String => "RegionName",
        /// Availability.
        required region_state: String => "RegionState",
    }
}

structure! {
    /// Zone.
    pub struct ZoneInfo {
        /// Name, e.g. ap-guangzhou-3.
        required zone: String => "Zone",
        /// Description.
        required zone_name: String => "ZoneName",
        /// Id.
        required zone_id: String => "ZoneId",
        /// State.
        required zone_state: String => "ZoneState",
    }
}

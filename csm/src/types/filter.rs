//! Filters and denied actions, which several list calls share.

use crate::schema::structure;

structure! {
    /// Name/values filter.
    pub struct Filter {
        /// Values; OR within one filter.
        required values: Vec<String> => "Values",
        /// Field name; AND between filters.
        required name: String => "Name",
    }
}

structure! {
    /// One denied action.
    pub struct DeniedAction {
        /// Name of the denied API action.
        optional action: String => "Action",
        /// Error code that the action would return.
        optional code: String => "Code",
        /// Error text.
        optional message: String => "Message",
    }
}

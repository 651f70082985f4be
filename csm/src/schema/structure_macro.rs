//! The macro that declares a structure of the API: its Rust type, its wire names, its description.
//!
//! `required` members are always written, `optional` ones are left out when `None`, and a `list` is left out when
//! empty. Reading never insists: what is absent or null becomes the default.

/// Declares a structure. Each member reads `required|optional|list name: Type => "WireName"`.
macro_rules! structure {
    (
        $(#[$meta:meta])*
        pub struct $name:ident { $( $(#[$field_meta:meta])* $presence:ident $field:ident : $kind:ty => $wire:literal, )* }
    ) => {
        $crate::schema::structure! { @members $name [$(#[$meta])*] [] $( [$(#[$field_meta])*] $presence $field ($kind) $wire; )* }

        impl $crate::schema::Described for $name {
            const STRUCTURE: $crate::schema::Structure = $crate::schema::Structure {
                name: stringify!($name),
                fields: &[$( $crate::schema::Field {
                    name: $wire,
                    required: $crate::schema::structure!(@required $presence),
                    kind: <$kind as $crate::schema::Shape>::KIND,
                } ),*],
            };
        }

        impl $crate::schema::Shape for $name {
            const KIND: $crate::schema::Kind =
                $crate::schema::Kind::Structure(&<$name as $crate::schema::Described>::STRUCTURE);
        }
    };

    (@required required) => { true };
    (@required optional) => { false };
    (@required list) => { false };

    (@members $name:ident [$($meta:tt)*] [$($done:tt)*]) => {
        $($meta)*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name { $($done)* }
    };
    (@members $name:ident $meta:tt [$($done:tt)*] [$($doc:tt)*] required $field:ident ($kind:ty) $wire:literal; $($rest:tt)*) => {
        $crate::schema::structure! { @members $name $meta [
            $($done)*
            $($doc)*
            #[serde(rename = $wire, deserialize_with = "crate::schema::null_as_default")]
            pub $field: $kind,
        ] $($rest)* }
    };
    (@members $name:ident $meta:tt [$($done:tt)*] [$($doc:tt)*] optional $field:ident ($kind:ty) $wire:literal; $($rest:tt)*) => {
        $crate::schema::structure! { @members $name $meta [
            $($done)*
            $($doc)*
            #[serde(rename = $wire, skip_serializing_if = "Option::is_none")]
            pub $field: Option<$kind>,
        ] $($rest)* }
    };
    (@members $name:ident $meta:tt [$($done:tt)*] [$($doc:tt)*] list $field:ident ($kind:ty) $wire:literal; $($rest:tt)*) => {
        $crate::schema::structure! { @members $name $meta [
            $($done)*
            $($doc)*
            #[serde(rename = $wire, skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::schema::null_as_default")]
            pub $field: $kind,
        ] $($rest)* }
    };
}

pub(crate) use structure;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn decodes_both_cases_of_escapes_and_refuses_broken_ones() {
    assert_eq!(
        decode(b"a=%2f%2B+x&b&c=&&d=%E8%BF%81").unwrap(),
        pairs(&[("a", "/+ x"), ("b", ""), ("c", ""), ("d", "迁")])
    );
    assert_eq!(decode(b"a=%2"), Err(FormError::Escape));
    assert_eq!(decode(b"a=%zz"), Err(FormError::Escape));
    assert_eq!(decode(b"a=%ff"), Err(FormError::NotUtf8));
}

#[test]
fn lists_count_from_zero_and_what_is_not_set_is_left_out() {
    let request = json!({
        "Name": "web 1", "Filters": [{"Name": "status", "Values": ["a", "b"]}], "ForceStop": true, "Limit": 5,
        "Progress": 1.5, "Absent": null, "Empty": [],
    });
    let mut flat = flatten(&request);
    flat.sort();
    let wanted = pairs(&[
        ("Filters.0.Name", "status"),
        ("Filters.0.Values.0", "a"),
        ("Filters.0.Values.1", "b"),
        ("ForceStop", "true"),
        ("Limit", "5"),
        ("Name", "web 1"),
        ("Progress", "1.5"),
    ]);
    assert_eq!(flat, wanted);
}

proptest! {
    #[test]
    fn any_pairs_survive_the_encoding(list in proptest::collection::vec(("[A-Za-z0-9.]{1,12}", any::<String>()), 0..8)) {
        prop_assert_eq!(decode(encode(&list).as_bytes()).unwrap(), list);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode(&bytes);
    }
}

use super::*;

fn pin(name: &str, source: &str, target: &str) -> Pin {
    Pin {
        name: name.to_owned(),
        source_mac: source.to_owned(),
        target_mac: target.to_owned(),
    }
}

#[test]
fn addresses_are_replaced_at_once_and_keep_their_case() {
    let one = pin("eth0", "00:50:56:aa:bb:01", "00:50:56:aa:bb:02");
    let two = pin("eth1", "00:50:56:aa:bb:02", "52:54:00:00:00:01");
    let text = "HWADDR=00:50:56:AA:BB:01\nmac-address=00:50:56:aa:bb:02 é\n";
    let changed = replace_in(text, &[&one, &two]);
    assert_eq!(
        changed,
        "HWADDR=00:50:56:AA:BB:02\nmac-address=52:54:00:00:00:01 é\n"
    );
}

use std::path::PathBuf;

use super::*;

fn client(text: &str) -> (ClientFile, Vec<String>) {
    let mut refusals = Refusals::default();
    let file = ClientFile::parse(Path::new("client.json"), text, &mut refusals);
    (file, refusals.as_slice().to_vec())
}

#[test]
fn the_shipped_files_are_read_and_set_nothing() {
    let top = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut refusals = Refusals::default();
    let files = Files::read(Some(&top), &mut refusals);
    assert_eq!(refusals.as_slice(), [""; 0]);
    assert_eq!(files.client.ignore_check, Some(false));
    assert_eq!(files.client.daemon, Some(false));
    assert_eq!(files.client.ipv6, Some(false));
    assert!(files.client.proxy_ip.is_none() && files.client.proxy_port.is_none());
    assert!(files.user.secret_id.is_none() && files.user.region.is_none());
}

#[test]
fn both_spellings_and_any_case_are_read() {
    for key in ["IpV6", "IPv6", "ipv6"] {
        let (file, refusals) = client(&format!(r#"{{"Client":{{"Net":{{"Proxy":{{"{key}":true}}}}}}}}"#));
        assert_eq!((file.ipv6, refusals.len()), (Some(true), 0), "{key}");
    }
    for port in ["8080", "\"8080\""] {
        let (file, _) = client(&format!(
            r#"{{"Client":{{"Net":{{"Proxy":{{"Port":{port}}}}}}}}}"#
        ));
        assert_eq!(file.proxy_port.as_deref(), Some("8080"), "{port}");
    }
    let (file, _) =
        client(r#"{"Client":{"Rsync":{"Checksum":true,"BandwidthLimit":"512"},"ToolMode":true}}"#);
    assert_eq!(file.checksum, Some(true));
    assert_eq!(file.bandwidth_limit.as_deref(), Some("512"));
    assert_eq!(file.no_console, Some(true));
}

#[test]
fn errors_name_line_and_column() {
    let (_, refusals) =
        client("{\n  \"Client\": {\n    \"Extra\": {\"IgnoreCheck\": 3},\n    \"Nett\": 1,,\n");
    assert_eq!(refusals, ["client.json:4:15: key must be a string"]);
    let (_, refusals) = client(
        "{\n  \"Client\": {\n    \"Extra\": {\"IgnoreCheck\": 3},\n    \"Net\": {\"Proxi\": {\"Ip\": \"1.2.3.4\"}}\n  }\n}",
    );
    assert_eq!(
        refusals,
        [
            "client.json:3:15: `Client.Extra.IgnoreCheck` must be true or false",
            "client.json:4:23: `Client.Net.Proxi.Ip` is unknown; did you mean `Client.Net.Proxy.Ip`?",
        ]
    );
    assert_eq!(client("[]").1, ["client.json:1:1: expected an object, `{ … }`"]);
    assert!(client("").1.is_empty() && client("\u{feff}{}").1.is_empty());
}

#[test]
fn secrets_do_not_appear_when_shown() {
    let mut refusals = Refusals::default();
    let text =
        r#"{"SecretId":"AKID123","SecretKey":"hunter2","EndPoint":"api.example","DataDisks":[{"Index":1}]}"#;
    let file = UserFile::parse(Path::new("user.json"), text, &mut refusals);
    assert!(refusals.is_empty());
    assert_eq!(file.endpoint.as_deref(), Some("api.example"));
    let shown = format!("{file:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("AKID123"),
        "{shown}"
    );
}

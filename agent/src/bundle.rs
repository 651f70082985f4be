//! `go2cloud support-bundle`: logs, state and checks in one tar file, without secrets.
//!
//! Configuration files are packed with their secrets blanked; in everything else each line is searched for the secrets
//! that those files and the environment hold. Keys, baselines and temporary credentials are not packed at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::BundleArgs;
use crate::exit::{self, Exit};
use crate::inventory::{Inventory, Machine};
use crate::migrate::plan::{ENV_SECRET_ID, ENV_SECRET_KEY};
use crate::output::{complain, say};
use crate::{folder, state};

/// What stands where a secret stood.
const BLANK: &str = "***";
/// Keys of configuration files whose values are secrets.
const SECRET_KEYS: [&str; 3] = ["SecretId", "SecretKey", "Password"];
/// Shorter values would blank half of a log.
const SECRET_LEN_MIN: usize = 4;
/// A longer file is packed with its end only, in bytes.
const FILE_LEN_MAX: usize = 64 << 20;

/// Packs the bundle and says where it lies.
pub fn run(args: &BundleArgs) -> Exit {
    let name = format!("go2cloud-support-{}.tar", jiff::Timestamp::now().as_second());
    let path = args.file.clone().unwrap_or_else(|| PathBuf::from(name));
    let program = folder::of_program().unwrap_or_else(|| PathBuf::from("/"));
    let root = args.state.clone().unwrap_or_else(|| PathBuf::from(state::ROOT));
    match pack(&path, &program, &root) {
        Ok(count) => {
            say(&format!(
                "{}: {count} files, without secrets. Look through it before you give it away.",
                path.display()
            ));
            exit::DONE
        }
        Err(error) => {
            complain(&format!("go2cloud: cannot write {}: {error}", path.display()));
            exit::FAILED
        }
    }
}

fn pack(path: &Path, program: &Path, state_root: &Path) -> io::Result<usize> {
    let mut secrets = Vec::new();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for name in ["user.json", "client.json"] {
        if let Ok(text) = fs::read_to_string(program.join(name)) {
            files.push((name.to_owned(), blanked_configuration(&text, &mut secrets)));
        }
    }
    secrets.extend(
        [ENV_SECRET_ID, ENV_SECRET_KEY]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok()),
    );
    secrets.retain(|secret: &String| secret.len() >= SECRET_LEN_MIN);
    for (prefix, folder) in [("logs", folder::logs(program)), ("state", state_root.to_owned())] {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let wanted = prefix == "logs" || name == "status.json" || name == "migration-mode.json";
            if wanted && entry.file_type()?.is_file() {
                let bytes = fs::read(entry.path())?;
                let start = bytes.len().saturating_sub(FILE_LEN_MAX);
                files.push((format!("{prefix}/{name}"), without(&bytes[start..], &secrets)));
            }
        }
    }
    if let Ok(inventory) = Inventory::take(&Machine::here()) {
        files.push((
            "inventory.json".to_owned(),
            serde_json::to_vec_pretty(&inventory)?,
        ));
    }
    files.push((
        "version".to_owned(),
        format!("go2cloud {}\n", env!("CARGO_PKG_VERSION")).into_bytes(),
    ));
    let mut output = BufWriter::new(File::create(path)?);
    for (name, bytes) in &files {
        append(&mut output, name, bytes)?;
    }
    // Two empty blocks end an archive.
    output.write_all(&[0; 1024])?;
    output.flush()?;
    Ok(files.len())
}

fn blanked_configuration(text: &str, secrets: &mut Vec<String>) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else {
        return b"not valid JSON: left out, because secrets could not be found in it\n".to_vec();
    };
    blank(&mut value, secrets);
    let text = serde_json::to_string_pretty(&value).unwrap_or_default();
    text.into_bytes()
}

fn blank(value: &mut Value, secrets: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let secret = SECRET_KEYS.iter().any(|known| known.eq_ignore_ascii_case(key));
                match value {
                    Value::String(text) if secret && !text.is_empty() => {
                        secrets.push(std::mem::replace(text, BLANK.to_owned()));
                    }
                    other => blank(other, secrets),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| blank(value, secrets)),
        _ => {}
    }
}

fn without(bytes: &[u8], secrets: &[String]) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    for secret in secrets {
        text = text.replace(secret.as_str(), BLANK);
    }
    text.into_bytes()
}

/// One file in the POSIX tar format (IEEE 1003.1, ustar).
fn append(output: &mut impl Write, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    let name: String = name.chars().take(99).filter(char::is_ascii).collect();
    put(0, &name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", bytes.len()));
    put(136, &format!("{:011o}\0", jiff::Timestamp::now().as_second()));
    // The checksum is computed as if its own field were blanks.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    output.write_all(&header)?;
    output.write_all(bytes)?;
    let padding = bytes.len().next_multiple_of(512) - bytes.len();
    output.write_all(&[0; 512][..padding])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_holds_logs_and_no_secret() {
        let program = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            program.path().join("user.json"),
            r#"{"SecretId":"AKID9","SecretKey":"hunter2","Region":"R"}"#,
        );
        write(
            program.path().join("client.json"),
            r#"{"Client":{"Net":{"Proxy":{"Password":"pr0xy"}}}}"#,
        );
        write(
            program.path().join("logs/log"),
            "started\nsomebody logged hunter2 and pr0xy\n",
        );
        write(root.path().join("status.json"), r#"{"message":"AKID9"}"#);
        write(
            root.path().join("enrolment.json"),
            r#"{"secret_key":"temporary"}"#,
        );
        write(root.path().join("receipt.key"), "\"privatekey\"");
        let path = root.path().join("bundle.tar");
        assert_eq!(pack(&path, program.path(), root.path()).unwrap(), 6);
        let list = std::process::Command::new("tar")
            .arg("-tf")
            .arg(&path)
            .output()
            .unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        for name in [
            "user.json",
            "client.json",
            "logs/log",
            "state/status.json",
            "inventory.json",
            "version",
        ] {
            assert!(list.lines().any(|line| line == name), "{name} in {list}");
        }
        let all = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        for secret in ["hunter2", "AKID9", "pr0xy", "temporary", "privatekey"] {
            assert!(!all.contains(secret), "{secret}");
        }
        assert!(all.contains("started") && all.contains("\"Region\": \"R\""));
    }
}

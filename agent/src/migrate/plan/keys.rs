//! Where the API key comes from, and how it is kept out of the process list.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;

use super::Credentials;
use crate::cli::JobArgs;
use crate::config::UserFile;
use crate::refusal::Refusals;
use crate::secret_text::SecretText;

/// Environment variable with the id of the API key.
pub const ENV_SECRET_ID: &str = "GO2CLOUD_SECRET_ID";
/// Environment variable with the API key.
pub const ENV_SECRET_KEY: &str = "GO2CLOUD_SECRET_KEY";
/// Environment variable with the password of the proxy, for [`hide_keys`] only.
pub(super) const ENV_PROXY_PASSWORD: &str = "GO2CLOUD_PROXY_PASSWORD";
/// Environment variable with the enrolment code, for [`hide_keys`] only.
pub(super) const ENV_ENROL: &str = "GO2CLOUD_ENROL";

/// Flags whose value must not stay in the process list, and the variable that carries it instead.
const HIDDEN: [(&str, &str); 4] = [
    ("secret-id", ENV_SECRET_ID),
    ("secret-key", ENV_SECRET_KEY),
    ("proxy-password", ENV_PROXY_PASSWORD),
    ("enrol", ENV_ENROL),
];

/// The value of an environment variable, if it is set to anything.
pub(super) fn from_environment(name: &str) -> Option<SecretText> {
    let text = SecretText::new(std::env::var(name).ok()?);
    (!text.is_empty()).then_some(text)
}

/// Finds the credentials: flags, environment, file, prompt.
pub(super) fn find(args: &JobArgs, file: &UserFile, refusals: &mut Refusals) -> Option<Credentials> {
    if let Some(code) = args.enrol.clone().or_else(|| from_environment(ENV_ENROL)) {
        if args.secret_id.is_some() || args.secret_key.is_some() {
            refusals.add("`--enrol` and an API key exclude each other");
        }
        return Some(Credentials::Enrolment(code));
    }
    let pick = |flag: &Option<SecretText>, variable, file: &Option<SecretText>| {
        flag.clone()
            .filter(|text| !text.is_empty())
            .or_else(|| from_environment(variable))
            .or_else(|| file.clone())
    };
    let id = pick(&args.secret_id, ENV_SECRET_ID, &file.secret_id);
    let key = pick(&args.secret_key, ENV_SECRET_KEY, &file.secret_key);
    // The prompt comes last: whoever made other mistakes should not type a key in vain.
    if !refusals.is_empty() && (id.is_none() || key.is_none()) {
        return None;
    }
    let id = id.or_else(|| ask("SecretId", "-secret-id", refusals));
    let key = key.or_else(|| ask("SecretKey", "-secret-key", refusals));
    Some(Credentials::Key { id: id?, key: key? })
}

fn ask(name: &str, flag: &str, refusals: &mut Refusals) -> Option<SecretText> {
    if !io::stdin().is_terminal() {
        refusals.add(format!(
            "`{flag}` is missing: set {ENV_SECRET_ID} and {ENV_SECRET_KEY}, or fill in user.json beside the program"
        ));
        return None;
    }
    let typed = rpassword::prompt_password(format!("Please input the {name} (it is not shown): "));
    let text = refusals.take(typed.map_err(|error| format!("cannot ask for the {name}: {error}")))?;
    let text = SecretText::new(text);
    if text.is_empty() {
        refusals.add(format!("no {name} was given"));
        return None;
    }
    Some(text)
}

/// Starts the program anew without the keys that are among its arguments: the process list shows arguments to everybody,
/// but the environment to root only. Returns when there was nothing to hide, or when it cannot be done.
pub fn hide_keys() {
    let (args, secrets) = without_keys(std::env::args_os().collect());
    if secrets.is_empty() {
        return;
    }
    let mut args = args.into_iter();
    let Some(name) = args.next() else { return };
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(name).args(args).envs(secrets);
    // Only reached when the kernel refuses; the keys then stay visible, as they were when the user typed them.
    let error = command.exec();
    tracing::warn!("cannot hide the keys from the process list: {error}");
}

/// The arguments without the hidden flags, and their values by environment variable.
fn without_keys(args: Vec<OsString>) -> (Vec<OsString>, Vec<(&'static str, OsString)>) {
    let mut kept = Vec::with_capacity(args.len());
    let mut secrets = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let Some((variable, value)) = hidden(&arg) else {
            kept.push(arg);
            continue;
        };
        if let Some(value) = value.or_else(|| args.next()) {
            secrets.push((variable, value));
        } else {
            kept.push(arg);
        }
    }
    (kept, secrets)
}

fn hidden(arg: &OsStr) -> Option<(&'static str, Option<OsString>)> {
    let bare = arg.as_bytes().strip_prefix(b"-")?;
    let bare = bare.strip_prefix(b"-").unwrap_or(bare);
    HIDDEN.iter().find_map(|(name, variable)| {
        let rest = bare.strip_prefix(name.as_bytes())?;
        match rest.split_first() {
            None => Some((*variable, None)),
            Some((b'=', value)) => Some((*variable, Some(OsStr::from_bytes(value).to_owned()))),
            Some(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_leave_the_arguments_in_every_spelling() {
        let args = [
            "g",
            "-secret-id",
            "AK",
            "-region=R",
            "--secret-key=SK",
            "-proxy-password",
            "-pw",
            "-secret-keys",
            "x",
        ];
        let (kept, secrets) = without_keys(args.iter().map(OsString::from).collect());
        assert_eq!(kept, ["g", "-region=R", "-secret-keys", "x"]);
        assert_eq!(
            secrets,
            [
                (ENV_SECRET_ID, OsString::from("AK")),
                (ENV_SECRET_KEY, OsString::from("SK")),
                (ENV_PROXY_PASSWORD, OsString::from("-pw")),
            ]
        );
        let (kept, secrets) = without_keys(vec!["g".into(), "-secret-key".into()]);
        assert_eq!((kept.len(), secrets.len()), (2, 0));
    }
}

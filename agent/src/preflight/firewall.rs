//! What might keep this program from reaching API and target: its own firewall, and proxies that others use.

use std::process::{Command, Stdio};

use super::Finding;

/// Variables that other programs take a proxy from.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];

pub(super) fn check() -> Finding {
    let name = "outgoing connections";
    let rules = said("nft", &["list", "chains"]).filter(|text| nft_drops(text));
    let old = said("iptables", &["-S", "OUTPUT"]).filter(|text| iptables_drop(text));
    if let Some((tool, remedy)) = blocked(rules.is_some(), old.is_some()) {
        return Finding::warn(
            "P63",
            name,
            format!("{tool} drops outgoing packets that no rule allows"),
            remedy,
        );
    }
    match VARIABLES
        .into_iter()
        .find(|name| std::env::var_os(name).is_some())
    {
        Some(variable) => Finding::info(
            "P63",
            name,
            format!(
                "{variable} is set and not used here: a proxy is named by -mode 3 -proxy-ip IP -proxy-port PORT"
            ),
        ),
        None => Finding::pass("P63", name, "not held back by a local firewall"),
    }
}

fn blocked(nft: bool, iptables: bool) -> Option<(&'static str, &'static str)> {
    if iptables {
        Some(("iptables", "iptables -I OUTPUT -p tcp --dport 443 -j ACCEPT"))
    } else if nft {
        Some((
            "nftables",
            "allow TCP to port 443 in the output chain that `nft list chains` shows, for instance: nft insert rule inet filter output tcp dport 443 accept",
        ))
    } else {
        None
    }
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn nft_drops(chains: &str) -> bool {
    chains
        .lines()
        .any(|line| line.contains("hook output") && line.contains("policy drop"))
}

fn iptables_drop(rules: &str) -> bool {
    let refuses = rules.lines().any(|line| line.trim() == "-P OUTPUT DROP");
    let allows = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // A rule that names interface, address or state does not speak of new connections in general.
        let open = words.windows(2).any(|pair| pair == ["-j", "ACCEPT"])
            && !words
                .iter()
                .any(|word| ["-o", "-d", "-s", "--ctstate", "--state"].contains(word));
        let port = words
            .windows(2)
            .find(|pair| pair[0] == "--dport")
            .map(|pair| pair[1]);
        open && port.is_none_or(|port| port == "443")
    };
    refuses && !rules.lines().any(allows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_that_drop_are_seen() {
        assert!(nft_drops(
            "table inet filter {\n chain output {\n type filter hook output priority 0; policy drop;\n"
        ));
        assert!(!nft_drops(
            "type filter hook output priority 0; policy accept;\n type filter hook input priority 0; policy drop;"
        ));
        assert!(iptables_drop("-P OUTPUT DROP\n-A OUTPUT -o lo -j ACCEPT\n"));
        assert!(iptables_drop(
            "-P OUTPUT DROP\n-A OUTPUT -p tcp --dport 53 -j ACCEPT\n"
        ));
        assert!(!iptables_drop(
            "-P OUTPUT DROP\n-A OUTPUT -p tcp -m tcp --dport 443 -j ACCEPT\n"
        ));
        assert!(!iptables_drop("-P OUTPUT ACCEPT\n"));
    }
}

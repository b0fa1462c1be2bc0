//! How does somebody look around inside of the demo? Writes a script that
//! opens a shell in its network, from outside, and says what to try there.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::parts::{BINDING, CATALOG_ID, NAMESPACE, Parts, SERVICE};
use crate::screen::Screen;
use crate::support::stack::{CATALOG, OPERATOR};
use crate::support::workload::SERVICE_PORT;
use crate::support::{namespace, tools, wait};

/// Writes the script and says how to use it.
pub(crate) async fn open(screen: &Screen, parts: &Parts) -> Result<()> {
    // The keeper outside writes it once it has started us.
    let pid = wait::until("our id outside", Duration::from_secs(10), async || {
        namespace::outer_pid(&parts.run)
    })
    .await?;
    let path = parts.run.join("shell");
    fs::write(&path, script(parts, pid))?;

    screen.heading("It stays up until Ctrl-C. Open a shell inside from another terminal:");
    screen.command(&format!("sh {}", path.display()));
    screen.gap();
    screen.say("and try there:");
    screen.gap();
    let host = parts.workload.host();
    for line in [
        "kubectl get csb -A -o wide".to_owned(),
        format!("kubectl describe csb -n {NAMESPACE} {BINDING}"),
        "curl -s $OPERATOR/metrics | grep ^catalog_mesh".to_owned(),
        format!("curl -s $ENVOY -H 'Host: {host}'"),
        format!("curl -s -X PUT $CATALOG/api/v1/services/{CATALOG_ID} \\"),
        "     -H 'Content-Type: application/json' \\".to_owned(),
        format!(
            "     -d '{{\"name\": \"{SERVICE}\", \"namespace\": \"{NAMESPACE}\", \"timeout\": \"9s\"}}'"
        ),
        format!("kubectl get vs -n {NAMESPACE} {SERVICE} -o yaml"),
        format!("istioctl analyze -n {NAMESPACE}"),
        "tail -f $DEMO/controller.log".to_owned(),
    ] {
        screen.block(&line);
    }
    Ok(())
}

/// With arguments it runs them there instead of a shell.
fn script(parts: &Parts, pid: u32) -> String {
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let variables = [
        ("DEMO", path(&parts.run)),
        ("KUBECONFIG", path(&parts.api.kubeconfig)),
        ("CATALOG", quoted(&format!("http://{CATALOG}"))),
        ("OPERATOR", quoted(&format!("http://{OPERATOR}"))),
        ("ENVOY", quoted(&parts.envoy.url(SERVICE_PORT))),
    ];
    let variables: String = variables
        .iter()
        .map(|(name, value)| format!("export {name}={value}\n"))
        .collect();
    let (bin, me) = (path(&tools::bin_folder()), nix::unistd::geteuid());
    format!(
        r#"#!/bin/sh
# Opens a shell inside of the running demo: in its network, with its tools.
# With arguments, runs these there instead.
if [ ! -d /proc/{pid} ]; then
    echo "This demo has ended." >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    into="--net"
elif [ "$(id -u)" = {me} ]; then
    into="--user --preserve-credentials --net"
else
    echo "This demo belongs to user {me}; run this as that user, or by sudo." >&2
    exit 1
fi
{variables}export PATH={bin}:"$PATH"
if [ $# -eq 0 ]; then
    export PS1='demo$ '
    # The person's own start-up files would set another prompt and PATH.
    if command -v bash > /dev/null; then set -- bash --norc --noprofile; else set -- sh; fi
fi
exec nsenter $into --target {pid} -- "$@"
"#
    )
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

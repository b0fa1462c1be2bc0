//! How are findings printed for people? As unified diffs of YAML, with the
//! source of each new value behind it. No IO.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::finding::{Action, Altered, Finding, Said};
use super::lines::Sign;

/// Longest text of one value or message.
const LONGEST: usize = 1_024;

/// Column that the sources begin in, where the lines are short enough.
const SOURCES: usize = 56;

/// All findings, with a last line that counts them. `passed_over` bindings were
/// not looked at.
pub(super) fn print(findings: &[Finding], passed_over: usize, explain: bool) -> String {
    let mut text = String::new();
    let mut counts = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.action().as_str()).or_insert(0_usize) += 1;
        one(&mut text, finding, explain);
    }
    if !text.is_empty() {
        text.push('\n');
    }
    // Writing to a String cannot fail.
    let many = if findings.len() == 1 { "" } else { "s" };
    let _ = write!(text, "{} binding{many}", findings.len());
    for (at, (action, count)) in counts.into_iter().enumerate() {
        let _ = write!(text, "{} {count} {action}", if at == 0 { ":" } else { "," });
    }
    if passed_over > 0 {
        let _ = write!(
            text,
            "; {passed_over} passed over, whose entries no file has"
        );
    }
    text.push('\n');
    text
}

fn one(text: &mut String, finding: &Finding, explain: bool) {
    let action = finding.action();
    if action == Action::Nothing && finding.because.is_none() && !explain {
        return;
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "# ServiceBinding {}: {}",
        finding.binding,
        action.as_str()
    );
    if let Some(because) = &finding.because {
        let _ = writeln!(text, "# {}: {}", because.reason, plain(&because.message));
    }
    for note in &finding.notes {
        let _ = writeln!(text, "# Note: {}.", plain(note));
    }
    for entry in finding.policy.iter().filter(|_| explain) {
        let value = plain(&entry.value);
        let _ = writeln!(text, "# {} = {value} ({:?})", entry.field, entry.source);
    }
    for object in &finding.objects {
        changed(text, object);
    }
}

fn changed(text: &mut String, object: &Altered) {
    let title = format!("{} {}/{}", object.kind, object.namespace, object.name);
    let (before, after) = match object.action {
        Action::Create => ("/dev/null", title.as_str()),
        Action::Remove => (title.as_str(), "/dev/null"),
        _ => (title.as_str(), title.as_str()),
    };
    let _ = writeln!(text, "--- {before}\n+++ {after}");
    for said in &object.lines {
        text.push_str(&line(said));
        text.push('\n');
    }
}

fn line(said: &Said) -> String {
    let line = &said.line;
    let sign = match line.sign {
        Sign::Same => ' ',
        Sign::Removed => '-',
        Sign::Added => '+',
    };
    let mut text = String::from(sign);
    if line.item {
        text.push_str(&"  ".repeat(line.depth.saturating_sub(1)));
        text.push_str("- ");
    } else {
        text.push_str(&"  ".repeat(line.depth));
    }
    if let Some(key) = &line.key {
        text.push_str(&scalar(key));
        text.push(':');
    }
    if let Some(value) = &line.value {
        if line.key.is_some() {
            text.push(' ');
        }
        text.push_str(&match value {
            Value::String(value) => scalar(value),
            other => other.to_string(),
        });
    }
    let why = match (said.source, &said.set_by) {
        (Some(source), _) => source.as_str().to_owned(),
        (None, Some(manager)) => format!("set by {}", plain(manager)),
        (None, None) => return text,
    };
    let width = text.chars().count();
    text.push_str(&" ".repeat(SOURCES.saturating_sub(width).max(2)));
    text + "# " + &why
}

/// A string as YAML: plain where that cannot be mistaken, else quoted.
fn scalar(text: &str) -> String {
    let inner = |c: char| c.is_ascii_alphanumeric() || "./_-:*@=, ".contains(c);
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let number = text.parse::<f64>().is_ok() || text.bytes().all(|b| b.is_ascii_digit());
    let mistaken = number
        || words.iter().any(|word| word.eq_ignore_ascii_case(text))
        || text.contains(": ")
        || text.ends_with([' ', ':']);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    if begins && !mistaken && text.len() <= LONGEST && text.chars().all(inner) {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    escape(&mut quoted, text, |c| matches!(c, '"' | '\\'));
    quoted.push('"');
    quoted
}

/// A message on one line, without what could hide or reorder text.
fn plain(text: &str) -> String {
    let mut line = String::new();
    escape(&mut line, text, |_| false);
    line
}

fn escape(out: &mut String, text: &str, quoted: impl Fn(char) -> bool) {
    for (at, c) in text.chars().enumerate() {
        if at == LONGEST {
            out.push('…');
            return;
        }
        let printed = matches!(c, '"' | '\'' | '\\') || c.escape_debug().count() == 1;
        if quoted(c) {
            out.push('\\');
            out.push(c);
        } else if printed {
            out.push(c);
        } else {
            let _ = match u32::from(c) {
                code @ ..=0xffff => write!(out, "\\u{code:04x}"),
                code => write!(out, "\\U{code:08x}"),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::finding::Because;
    use super::super::lines::between;
    use super::super::source::Source;
    use super::*;
    use crate::api::service_binding::{PolicyEntry, PolicySource};
    use crate::domain::desired::MeshKind;
    use crate::domain::names::BindingKey;

    fn finding() -> Finding {
        Finding::of(BindingKey::new("shop", "web"))
    }

    fn altered(action: Action, before: Option<&Value>, after: Option<&Value>) -> Altered {
        let said = |line: super::super::lines::Line| Said {
            source: (line.sign == Sign::Added && line.value.is_some()).then_some(Source::Catalog),
            set_by: (line.sign == Sign::Removed && line.value.is_some())
                .then(|| "kubectl-edit".to_owned()),
            line,
        };
        Altered {
            kind: MeshKind::VirtualService.as_str(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            action,
            lines: between(before, after).into_iter().map(said).collect(),
        }
    }

    fn spec(timeout: &str) -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {
            "hosts": ["web.shop.svc.cluster.local"],
            "http": [
                {"match": [{"port": 80}], "timeout": timeout},
                {"match": [{"port": 81}], "timeout": "1s"},
            ],
        }})
    }

    #[test]
    fn an_update_shows_what_differs_and_how_one_gets_there() {
        let (before, after) = (spec("5s"), spec("7s"));
        let mut finding = finding();
        finding.objects = vec![altered(Action::Update, Some(&before), Some(&after))];
        let expected = "\
# ServiceBinding shop/web: update
--- VirtualService shop/web
+++ VirtualService shop/web
 spec:
   http:
   - match:
     - port: 80
-    timeout: 5s                                        # set by kubectl-edit
+    timeout: 7s                                        # Catalog

1 binding: 1 update
";
        assert_eq!(print(&[finding], 0, false), expected);
    }

    #[test]
    fn what_is_made_is_shown_whole() {
        let mut finding = finding();
        finding.objects = vec![altered(Action::Create, None, Some(&spec("5s")))];
        let expected = "\
# ServiceBinding shop/web: create
--- /dev/null
+++ VirtualService shop/web
+metadata:
+  labels:
+    app: web                                           # Catalog
+spec:
+  hosts:
+  - web.shop.svc.cluster.local                         # Catalog
+  http:
+  - match:
+    - port: 80                                         # Catalog
+    timeout: 5s                                        # Catalog
+  - match:
+    - port: 81                                         # Catalog
+    timeout: 1s                                        # Catalog

1 binding: 1 create
";
        assert_eq!(print(&[finding], 0, false), expected);
    }

    #[test]
    fn why_something_is_not_done_stands_beside_what_is() {
        let because = |reason: &str, blocks| Because {
            reason: reason.to_owned(),
            message: "delete it\u{1b}[31m\nor rename it".to_owned(),
            blocks,
        };
        let mut blocked = finding();
        blocked.because = Some(because("NotOurs", true));
        let mut removed = finding();
        removed.because = Some(because("Removed", false));
        removed.objects = vec![altered(Action::Remove, None, None)];
        let mut frozen = finding();
        frozen.because = Some(because("Paused", false));
        let expected = "\
# ServiceBinding shop/web: blocked
# NotOurs: delete it\\u001b[31m\\u000aor rename it

# ServiceBinding shop/web: remove
# Removed: delete it\\u001b[31m\\u000aor rename it
--- VirtualService shop/web
+++ /dev/null

# ServiceBinding shop/web: nothing
# Paused: delete it\\u001b[31m\\u000aor rename it

4 bindings: 1 blocked, 2 nothing, 1 remove; 2 passed over, whose entries no file has
";
        let findings = [blocked, removed, frozen, finding()];
        assert_eq!(print(&findings, 2, false), expected);
    }

    #[test]
    fn on_demand_the_policy_is_there_though_nothing_differs() {
        let mut finding = finding();
        finding.notes = vec!["it is odd".to_owned()];
        finding.policy = vec![PolicyEntry {
            field: "trafficPolicy.timeout".to_owned(),
            value: "5s".to_owned(),
            source: PolicySource::Catalog,
        }];
        assert_eq!(
            print(&[finding.clone()], 0, false),
            "1 binding: 1 nothing\n"
        );
        let expected = "\
# ServiceBinding shop/web: nothing
# Note: it is odd.
# trafficPolicy.timeout = 5s (Catalog)

1 binding: 1 nothing
";
        assert_eq!(print(&[finding], 0, true), expected);
    }

    #[test]
    fn a_string_is_plain_only_where_it_reads_as_one() {
        for plain in ["5s", "web.shop", "5xx,reset", "/health", "a b"] {
            assert_eq!(scalar(plain), plain);
        }
        for (text, quoted) in [
            ("", "\"\""),
            ("80", "\"80\""),
            ("1e3", "\"1e3\""),
            ("True", "\"True\""),
            ("a: b", "\"a: b\""),
            ("# x", "\"# x\""),
            ("a\"b\\", "\"a\\\"b\\\\\""),
            ("\u{202e}x\u{1f600}\0", "\"\\u202ex\u{1f600}\\u0000\""),
        ] {
            assert_eq!(scalar(text), quoted);
            let read: String = serde_saphyr::from_str(quoted).unwrap();
            assert_eq!(read, text);
        }
    }

    #[test]
    fn routes_that_come_and_go_leave_their_neighbours_alone() {
        let route = |port: u16| json!({"match": [{"port": port}]});
        let of =
            |ports: &[u16]| json!({"http": ports.iter().map(|p| route(*p)).collect::<Vec<_>>()});
        let lines = |before: &[u16], after: &[u16]| {
            let object = altered(Action::Update, Some(&of(before)), Some(&of(after)));
            let lines: Vec<String> = object
                .lines
                .iter()
                .map(|said| {
                    let line = line(said);
                    line.split("  #")
                        .next()
                        .unwrap_or_default()
                        .trim_end()
                        .to_owned()
                })
                .collect();
            lines.join("\n")
        };
        assert_eq!(
            lines(&[80, 82], &[80, 81, 82]),
            " http:\n+- match:\n+  - port: 81"
        );
        assert_eq!(lines(&[80, 81], &[81]), " http:\n-- match:\n-  - port: 80");
        assert_eq!(
            lines(&[80], &[81]),
            " http:\n - match:\n-  - port: 80\n+  - port: 81"
        );
    }
}

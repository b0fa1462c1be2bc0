//! The rules that texts of the API keep. No IO.

use std::net::IpAddr;

use catalog_mesh_controller::domain::names::{CatalogServiceId, Namespace};

/// A rule that a text keeps, and how to say it.
pub(crate) struct TextRule {
    pub(crate) holds: fn(&str) -> bool,
    pub(crate) expected: &'static str,
}

pub(crate) static SERVICE_ID: TextRule = TextRule {
    holds: |text| CatalogServiceId::parse(text).is_ok(),
    expected: "must be 1 to 253 characters of A-Z a-z 0-9 . _ : ~ -, the first a letter or digit",
};
pub(crate) static DNS_LABEL: TextRule = TextRule {
    holds: |text| Namespace::parse(text).is_ok(),
    expected: "must be a DNS label: 1 to 63 characters of a-z 0-9 -, first and last a letter or digit",
};
pub(crate) static LABEL_KEY: TextRule = TextRule {
    holds: |text| {
        text.len() <= 253
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && made_of(text, "._/-")
    },
    expected: "must be 1 to 253 characters of A-Z a-z 0-9 . _ / -, the first a letter or digit",
};
pub(crate) static LABEL_VALUE: TextRule = TextRule {
    holds: |text| text.chars().count() <= 253 && !text.chars().any(|c| c.is_ascii_control()),
    expected: "must be text of at most 253 characters without control characters",
};
pub(crate) static RETRY_ON: TextRule = TextRule {
    holds: |text| {
        text.len() <= 1024
            && text.split(',').all(|part| {
                !part.is_empty()
                    && part
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            })
    },
    expected: "must be Envoy's retry conditions separated by commas, such as 5xx,reset",
};
pub(crate) static TOKEN: TextRule = TextRule {
    holds: |text| (1..=256).contains(&text.len()) && made_of(text, "!#$%&'*+-.^_`|~"),
    expected: "must be a name as HTTP has it: 1 to 256 letters, digits or !#$%&'*+-.^_`|~",
};
pub(crate) static COOKIE_PATH: TextRule = TextRule {
    holds: |text| {
        text.len() <= 1024
            && text.starts_with('/')
            && text.chars().all(|c| c.is_ascii_graphic() && c != ';')
    },
    expected: "must be a path that starts with / and has neither spaces nor semicolons",
};
pub(crate) static QUERY_PARAMETER: TextRule = TextRule {
    holds: |text| {
        let allowed = |c: char| c.is_ascii_graphic() && !"&=#?".contains(c);
        (1..=256).contains(&text.len()) && text.chars().all(allowed)
    },
    expected: "must be 1 to 256 visible ASCII characters without & = # ?",
};
pub(crate) static PLACE: TextRule = TextRule {
    holds: |text| {
        text.len() <= 253
            && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '*')
            && made_of(text, "._*/-")
    },
    expected: "must be a region, region/zone or region/zone/sub-zone, with * for any",
};
pub(crate) static FAILOVER_LABEL: TextRule = TextRule {
    holds: |text| {
        text.len() <= 317
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && made_of(text, "._/=-")
    },
    expected: "must be a label's key, or key=value",
};
pub(crate) static CHECK_PATH: TextRule = TextRule {
    holds: |text| {
        let allowed = |c: char| c.is_ascii_graphic() && !"\"#<>\\^`{|}".contains(c);
        text.len() <= 1024
            && text.starts_with('/')
            && !text.starts_with("//")
            && text.chars().all(allowed)
    },
    expected: "must be a path that starts with one /, never a URL, of visible ASCII characters without #",
};
pub(crate) static ZONE: TextRule = TextRule {
    holds: |text| {
        text.len() <= 63
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && made_of(text, "._-")
    },
    expected: "must be a label value: 1 to 63 characters of A-Z a-z 0-9 . _ -",
};
pub(crate) static ADDRESS: TextRule = TextRule {
    holds: |text| text.parse::<IpAddr>().is_ok(),
    expected: "must be an IPv4 or IPv6 address",
};

fn made_of(text: &str, more: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

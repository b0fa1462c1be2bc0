//! Checks a JSON value against a described shape. No IO.
//!
//! Every fault names its field. What comes back holds the described fields
//! alone, so that an unknown field is tolerated and not kept.

pub(crate) mod record;
pub(crate) mod report;
pub(crate) mod text;

use catalog_mesh_controller::domain::duration::Millis;
use catalog_mesh_controller::domain::names::shown;
use catalog_mesh_controller::domain::policy::bounds::{Bounds, Limit};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::duration::milliseconds;
use text::TextRule;

/// The first float above the whole numbers that we count in.
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

/// A refusal names no more fields than this.
const MOST_FAULTS: usize = 20;

/// A field that breaks a rule.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Fault {
    /// Path of the field, as in `circuitBreaker.interval`.
    pub(crate) field: String,
    /// What is expected of it.
    pub(crate) message: String,
}

/// What a value must look like.
pub(crate) enum Shape {
    /// Text that keeps a rule.
    Text(&'static TextRule),
    /// A whole number within bounds.
    Integer(i64, i64),
    /// A whole number within the operator's bounds.
    Count(Limit),
    /// A duration within the operator's bounds; 0s where they begin there.
    Time(Limit),
    /// A duration within the operator's bounds, but not 0s.
    Lasting(Limit),
    /// true or false.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An object with these fields.
    Object(&'static ObjectShape),
    /// Any object, kept as it is.
    AnyObject,
    /// A whole number within the operator's bounds, or an object.
    CountOr(Limit, &'static ObjectShape),
    /// A list of at most so many items.
    List(&'static Shape, usize),
    /// An object of any keys that keep a rule, between so many and so many.
    Map(&'static TextRule, &'static Shape, usize, usize),
}

/// A rule over several fields: what is broken, if it is.
type Rule = fn(&Map<String, Value>) -> Option<&'static str>;

/// The fields of an object.
pub(crate) struct ObjectShape {
    pub(crate) fields: &'static [Field],
    pub(crate) rule: Option<Rule>,
}

/// One field of an object.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    pub(crate) shape: Shape,
}

/// A field that may be absent.
pub(crate) const fn optional(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        required: false,
        shape,
    }
}

/// A field that must be there.
pub(crate) const fn required(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        required: true,
        shape,
    }
}

/// An object without a rule over several fields.
pub(crate) const fn object(fields: &'static [Field]) -> ObjectShape {
    ObjectShape { fields, rule: None }
}

/// The described part of an object, or its faults.
pub(crate) fn read(value: &Value, shape: &ObjectShape) -> Result<Map<String, Value>, Vec<Fault>> {
    let mut reader = Reader { faults: Vec::new() };
    match reader.object(value, shape, "") {
        Some(object) if reader.faults.is_empty() => Ok(object),
        _ => Err(reader.faults),
    }
}

struct Reader {
    faults: Vec<Fault>,
}

impl Reader {
    fn fault(&mut self, path: &str, message: impl Into<String>) {
        if self.faults.len() < MOST_FAULTS {
            let field = if path.is_empty() { "body" } else { path };
            self.faults.push(Fault {
                field: field.to_owned(),
                message: message.into(),
            });
        }
    }

    fn value(&mut self, value: &Value, shape: &Shape, path: &str) -> Option<Value> {
        match shape {
            Shape::Text(rule) => match value.as_str() {
                Some(text) if (rule.holds)(text) => return Some(value.clone()),
                _ => self.fault(path, rule.expected),
            },
            Shape::Integer(least, most) => return self.integer(value, *least, *most, path),
            Shape::Count(limit) => {
                let (low, high) = bounds(*limit);
                return self.integer(value, low, high, path);
            }
            Shape::Time(limit) => return self.time(value, bounds(*limit), path),
            Shape::Lasting(limit) => {
                let (low, high) = bounds(*limit);
                return self.time(value, (low.max(1), high), path);
            }
            Shape::Flag if value.is_boolean() => return Some(value.clone()),
            Shape::Flag => self.fault(path, "must be true or false"),
            Shape::Choice(words) => match value.as_str() {
                Some(word) if words.contains(&word) => return Some(value.clone()),
                _ => self.fault(path, format!("must be one of {}", words.join(", "))),
            },
            Shape::AnyObject if value.is_object() => return Some(value.clone()),
            Shape::AnyObject => self.fault(path, "must be an object"),
            Shape::Object(shape) => return self.object(value, shape, path).map(Value::Object),
            Shape::CountOr(_, shape) if value.is_object() => {
                return self.object(value, shape, path).map(Value::Object);
            }
            Shape::CountOr(limit, _) => {
                let (low, high) = bounds(*limit);
                return self.integer(value, low, high, path);
            }
            Shape::List(item, most) => match value.as_array() {
                Some(list) if list.len() <= *most => return self.list(list, item, path),
                _ => self.fault(path, format!("must be a list of at most {most} items")),
            },
            Shape::Map(key, item, least, most) => match value.as_object() {
                Some(map) if (*least..=*most).contains(&map.len()) => {
                    return self.map(map, key, item, path);
                }
                _ => self.fault(
                    path,
                    format!("must be an object of {least} to {most} entries"),
                ),
            },
        }
        None
    }

    fn integer(&mut self, value: &Value, least: i64, most: i64, path: &str) -> Option<Value> {
        let number = whole(value).filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.fault(
                path,
                format!("must be a whole number from {least} to {most}"),
            );
        }
        number.map(Value::from)
    }

    fn time(&mut self, value: &Value, (low, high): (i64, i64), path: &str) -> Option<Value> {
        let given = value.as_str().and_then(|text| match text {
            "0s" => Some(0),
            _ => i64::try_from(milliseconds(text)?).ok(),
        });
        if given.is_some_and(|given| (low..=high).contains(&given)) {
            return Some(value.clone());
        }
        let (low, high) = (Millis(low.unsigned_abs()), Millis(high.unsigned_abs()));
        self.fault(
            path,
            format!("must be a duration of {low} to {high} in whole milliseconds, such as 30s, 1m30s or 500ms"),
        );
        None
    }

    fn object(
        &mut self,
        value: &Value,
        shape: &ObjectShape,
        path: &str,
    ) -> Option<Map<String, Value>> {
        let Some(given) = value.as_object() else {
            self.fault(path, "must be an object");
            return None;
        };
        let mut kept = Map::new();
        for field in shape.fields {
            let path = join(path, field.name);
            match given.get(field.name) {
                Some(value) => {
                    if let Some(value) = self.value(value, &field.shape, &path) {
                        kept.insert(field.name.to_owned(), value);
                    }
                }
                None if field.required => self.fault(&path, "must be given"),
                None => {}
            }
        }
        if let Some(broken) = shape.rule.and_then(|rule| rule(given)) {
            self.fault(path, broken);
        }
        Some(kept)
    }

    fn list(&mut self, list: &[Value], item: &Shape, path: &str) -> Option<Value> {
        let items: Vec<_> = list
            .iter()
            .enumerate()
            .filter_map(|(index, value)| self.value(value, item, &format!("{path}[{index}]")))
            .collect();
        (items.len() == list.len()).then_some(Value::Array(items))
    }

    fn map(
        &mut self,
        map: &Map<String, Value>,
        key_rule: &TextRule,
        item: &Shape,
        path: &str,
    ) -> Option<Value> {
        let mut kept = Map::new();
        for (key, value) in map {
            let named = format!("{path}[{}]", shown(key));
            if !(key_rule.holds)(key) {
                self.fault(&named, format!("the key {}", key_rule.expected));
            } else if let Some(value) = self.value(value, item, &named) {
                kept.insert(key.clone(), value);
            }
        }
        Some(Value::Object(kept))
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// The operator's smallest and largest value.
fn bounds(limit: Limit) -> (i64, i64) {
    let range = Bounds::default().range(limit);
    let number = |bound| i64::try_from(bound).unwrap_or(i64::MAX);
    (number(range.low), number(range.high))
}

/// The number, where it is a whole one; JSON does not tell 5 from 5.0.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        let fits = number.fract() == 0.0 && (-TWO_TO_63..TWO_TO_63).contains(&number);
        fits.then_some(number as i64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_may_be_written_with_a_fraction_of_nothing() {
        for (text, expected) in [
            ("5", Some(5)),
            ("5.0", Some(5)),
            ("4473650617111674.0", Some(4_473_650_617_111_674)),
            ("9223372036854775807", Some(i64::MAX)),
            ("1e3", Some(1_000)),
            ("5.5", None),
            ("1e19", None),
            ("9223372036854775808", None),
            ("\"5\"", None),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(whole(&value), expected, "{text}");
        }
    }
}

//! Where do two objects differ? As lines of YAML, each with the sign of a
//! unified diff. No IO.
//!
//! What is the same is left out, but for what leads to a difference; an item of
//! a list that differs is shown whole, since its place alone says little.

use serde_json::Value;

/// On which side a line stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sign {
    /// On both.
    Same,
    /// Before only.
    Removed,
    /// After only.
    Added,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// On which side it stands.
    pub(super) sign: Sign,
    /// How deep it is.
    pub(super) depth: usize,
    /// Whether an item of a list begins with it.
    pub(super) item: bool,
    /// The field, unless it is an item by itself.
    pub(super) key: Option<String>,
    /// The value, unless it follows in lines of its own.
    pub(super) value: Option<Value>,
    /// Where it is in the object.
    pub(super) path: Vec<String>,
}

/// The lines of what differs; none where nothing does.
pub(super) fn between(before: Option<&Value>, after: Option<&Value>) -> Vec<Line> {
    let mut walk = Walk::default();
    if before != after {
        walk.fields(before, after, 0);
    }
    walk.lines
}

#[derive(Default)]
struct Walk {
    lines: Vec<Line>,
    path: Vec<String>,
    /// Within an item of a list that is shown whole.
    whole: bool,
    /// The next line begins an item.
    item: bool,
}

impl Walk {
    /// The fields of two objects.
    fn fields(&mut self, before: Option<&Value>, after: Option<&Value>, depth: usize) {
        let names = |value: Option<&Value>| {
            let fields = value.and_then(Value::as_object);
            fields.into_iter().flat_map(|f| f.keys().cloned()).collect()
        };
        let mut all: Vec<String> = names(before);
        all.extend(names(after));
        all.sort_unstable();
        all.dedup();
        for name in all {
            let of = |value: Option<&Value>| value.and_then(|v| v.get(&name)).cloned();
            self.path.push(name.clone());
            self.value(of(before).as_ref(), of(after).as_ref(), Some(&name), depth);
            self.path.pop();
        }
    }

    fn value(
        &mut self,
        before: Option<&Value>,
        after: Option<&Value>,
        key: Option<&str>,
        depth: usize,
    ) {
        if before == after && !self.whole {
            return;
        }
        match (before, after) {
            (Some(b), Some(a)) if same_shape(b, a) => {
                self.nested(Sign::Same, Some(b), Some(a), key, depth);
            }
            (Some(b), Some(a)) if b == a => self.leaf(Sign::Same, a, key, depth),
            _ => {
                let item = self.item;
                if let Some(value) = before {
                    self.one_side(Sign::Removed, value, key, depth);
                }
                if let Some(value) = after {
                    // Both sides begin the item.
                    self.item = item;
                    self.one_side(Sign::Added, value, key, depth);
                }
            }
        }
    }

    fn one_side(&mut self, sign: Sign, value: &Value, key: Option<&str>, depth: usize) {
        let outer = std::mem::replace(&mut self.whole, true);
        if is_leaf(value) {
            self.leaf(sign, value, key, depth);
        } else if sign == Sign::Removed {
            self.nested(sign, Some(value), None, key, depth);
        } else {
            self.nested(sign, None, Some(value), key, depth);
        }
        self.whole = outer;
    }

    /// A field with an object or a list below it.
    fn nested(
        &mut self,
        sign: Sign,
        before: Option<&Value>,
        after: Option<&Value>,
        key: Option<&str>,
        depth: usize,
    ) {
        let list = before.or(after).is_some_and(Value::is_array);
        let below = if key.is_some() {
            self.line(sign, None, key, depth);
            depth + usize::from(!list)
        } else {
            depth
        };
        if list {
            self.items(before, after, below);
        } else {
            self.fields(before, after, below);
        }
    }

    /// The items of two lists: those that both begin and end with are the
    /// same, and the rest is compared pair by pair.
    fn items(&mut self, before: Option<&Value>, after: Option<&Value>, depth: usize) {
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned();
        let (b, a) = (
            list(before).unwrap_or_default(),
            list(after).unwrap_or_default(),
        );
        let equal = |pair: &(&Value, &Value)| pair.0 == pair.1;
        let head = b.iter().zip(&a).take_while(equal).count();
        let tail = b[head..].iter().rev().zip(a[head..].iter().rev());
        let tail = tail.take_while(equal).count();
        for (at, same) in a[..head].iter().enumerate() {
            self.one_item(Some(same), Some(same), at, depth);
        }
        let (b_end, a_end) = (b.len() - tail, a.len() - tail);
        for at in head..b_end.max(a_end) {
            let of = |list: &[Value], end: usize| list[..end].get(at).cloned();
            self.one_item(of(&b, b_end).as_ref(), of(&a, a_end).as_ref(), at, depth);
        }
        for (at, same) in a.iter().enumerate().skip(a_end) {
            self.one_item(Some(same), Some(same), at, depth);
        }
    }

    fn one_item(&mut self, before: Option<&Value>, after: Option<&Value>, at: usize, depth: usize) {
        if before == after && !self.whole {
            return;
        }
        let outer = std::mem::replace(&mut self.whole, true);
        self.item = true;
        self.path.push(at.to_string());
        self.value(before, after, None, depth + 1);
        self.path.pop();
        self.item = false;
        self.whole = outer;
    }

    fn leaf(&mut self, sign: Sign, value: &Value, key: Option<&str>, depth: usize) {
        self.line(sign, Some(value.clone()), key, depth);
    }

    fn line(&mut self, sign: Sign, value: Option<Value>, key: Option<&str>, depth: usize) {
        self.lines.push(Line {
            sign,
            depth,
            item: std::mem::take(&mut self.item),
            key: key.map(str::to_owned),
            value,
            path: self.path.clone(),
        });
    }
}

/// A scalar, or nothing to go into.
fn is_leaf(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    }
}

fn same_shape(one: &Value, other: &Value) -> bool {
    let both = |is: fn(&Value) -> bool| is(one) && is(other);
    !is_leaf(one) && !is_leaf(other) && (both(Value::is_object) || both(Value::is_array))
}

//! The schema and the parser agree: whatever the parser takes is valid by the schema.
//!
//! Documents are accel.toml.example with one thing changed: a value replaced by one of a few others, left out, or its key
//! misspelt. [`problem`] judges by the parts of JSON Schema that the schema uses; patterns of texts are
//! left to editors.

use accel::config::{load_text, schema};
use serde_json::{Map, Value, json};

/// What is wrong with `value` by `schema`.
fn problem(value: &Value, schema: &Value, root: &Value) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.strip_prefix('#')?).expect("every reference leads somewhere");
        return problem(value, target, root);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices
            .iter()
            .all(|choice| problem(value, choice, root).is_some())
            .then(|| format!("{value} is none of the choices"));
    }
    if let Some(words) = schema["enum"].as_array() {
        return (!words.contains(value)).then(|| format!("{value} is none of the words"));
    }
    if let Some(constant) = schema.get("const") {
        return (value != constant).then(|| format!("{value} is not {constant}"));
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        Value::Null => Vec::new(),
        one => vec![one.clone()],
    };
    if !types.is_empty() && !types.iter().any(|name| is_a(value, name.as_str().expect("a name"))) {
        return Some(format!("{value} is none of {types:?}"));
    }
    match value {
        Value::Number(number) => {
            let number = number.as_f64().expect("finite");
            let low = schema["minimum"].as_f64().is_some_and(|bound| number < bound)
                || schema["exclusiveMinimum"].as_f64().is_some_and(|bound| number <= bound);
            let high = schema["maximum"].as_f64().is_some_and(|bound| number > bound);
            (low || high).then(|| format!("{value} is out of range"))
        }
        Value::String(text) => {
            let shortest = schema["minLength"].as_u64().unwrap_or(0);
            ((text.chars().count() as u64) < shortest).then(|| format!("{value} is too short"))
        }
        Value::Array(items) => {
            let (count, bound) = (items.len() as u64, |name: &str| schema[name].as_u64());
            if bound("minItems").is_some_and(|least| count < least)
                || bound("maxItems").is_some_and(|most| count > most)
            {
                return Some(format!("{value} has the wrong length"));
            }
            items.iter().find_map(|item| problem(item, schema.get("items")?, root))
        }
        Value::Object(table) => table_problem(table, schema, root),
        _ => None,
    }
}

fn table_problem(table: &Map<String, Value>, schema: &Value, root: &Value) -> Option<String> {
    let missing = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(key) = missing.into_iter().find(|key| !table.contains_key(*key)) {
        return Some(format!("no `{key}`"));
    }
    table.iter().find_map(|(key, value)| {
        match (schema["properties"].get(key), &schema["additionalProperties"]) {
            (Some(property), _) => problem(value, property, root),
            (None, Value::Bool(false)) => Some(format!("unknown key `{key}`")),
            (None, Value::Null | Value::Bool(true)) => None,
            (None, other) => problem(value, other, root),
        }
    })
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("the schema uses a type `{other}` that is not judged here"),
    }
}

fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(table) => table.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        let path = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        pointers(child, &path, found);
        found.push(path);
    }
}

fn replacements() -> Vec<Value> {
    vec![
        json!(1),
        json!(-1),
        json!(1.5),
        json!(true),
        json!(""),
        json!("10m"),
        json!("x"),
        json!([]),
        json!(["src", 2]),
        json!({}),
        json!({ "to": "local" }),
    ]
}

/// The document with one thing changed in each way.
fn changed(example: &Value, pointer: &str) -> Vec<Value> {
    let mut documents: Vec<Value> = replacements()
        .into_iter()
        .map(|replacement| {
            let mut document = example.clone();
            *document.pointer_mut(pointer).expect("it was listed") = replacement;
            document
        })
        .collect();
    let (parent, key) = pointer.rsplit_once('/').expect("it begins with one");
    let key = key.replace("~1", "/").replace("~0", "~");
    for misspelt in [None, Some(format!("{key}z"))] {
        let mut document = example.clone();
        if let Some(Value::Object(table)) = document.pointer_mut(parent) {
            let value = table.remove(&key).expect("it was listed");
            table.extend(misspelt.map(|misspelt| (misspelt, value)));
            documents.push(document);
        }
    }
    documents
}

#[test]
fn what_the_parser_takes_is_valid_by_the_schema() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/accel.toml.example")).unwrap();
    let example: Value = toml::from_str(&text).unwrap();
    let schema = schema();
    assert_eq!(problem(&example, &schema, &schema), None);
    let mut places = Vec::new();
    pointers(&example, "", &mut places);
    let (mut taken, mut refused, mut wrong) = (0, 0, Vec::new());
    for (index, place) in places.iter().enumerate() {
        // One change in three at each place, another third at the next: all of them together take too long.
        for document in changed(&example, place).into_iter().skip(index % 3).step_by(3) {
            if load_text("accel.toml", &toml::to_string(&document).unwrap()).is_err() {
                refused += 1;
                continue;
            }
            taken += 1;
            if let Some(problem) = problem(&document, &schema, &schema) {
                wrong.push(format!("{place}: the parser takes it, the schema says {problem}"));
            }
        }
    }
    assert!(taken > 200 && refused > 200, "{taken} taken, {refused} refused: too few to tell");
    assert!(wrong.is_empty(), "{} of {taken}:\n{}", wrong.len(), wrong.join("\n"));
}

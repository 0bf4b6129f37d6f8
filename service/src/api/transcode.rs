//! JSON text straight to BSON bytes, without a tree in between: the body of every insert and replace goes this
//! way, and building and freeing a map a document was a fifth of the cost of a request.

use std::fmt;

use bson::Document;
use bson::raw::RawDocumentBuf;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::elements::{self, kind};

/// Fields of an object that are compared one by one for repetitions; larger ones go the slow way.
const MAX_PLAIN_FIELDS: usize = 64;

/// A JSON object as a BSON document. Extended JSON (`{"$date": …}`) is understood, repeated names resolve to the
/// last one, and numbers take the smallest integer type that holds them.
///
/// # Errors
/// Text that is no JSON object, a name with a NUL, or an integer beyond 64 bits.
pub(super) fn document(json: &str, reserved: &[&'static str]) -> Result<Transcoded, String> {
    let mut writer = Writer {
        out: Vec::with_capacity(json.len() + json.len() / 2),
        is_plain: true,
        depth: 0,
        reserved,
        found: None,
    };
    let mut input = serde_json::Deserializer::from_str(json);
    let written = Object(&mut writer).deserialize(&mut input).and_then(|()| input.end());
    match written {
        Ok(()) => {
            let document = RawDocumentBuf::from_bytes(writer.out).map_err(|error| error.to_string())?;
            Ok(Transcoded { document, reserved: writer.found })
        }
        // What is not plain is for the library to interpret.
        Err(_) if !writer.is_plain => {
            let document: Document = serde_json::from_str(json).map_err(|error| error.to_string())?;
            let found = reserved.iter().copied().find(|name| document.contains_key(name));
            let document = RawDocumentBuf::try_from(&document).map_err(|error| error.to_string())?;
            Ok(Transcoded { document, reserved: found })
        }
        Err(error) => Err(error.to_string()),
    }
}

/// A document, and one of the reserved fields if it has any.
#[derive(Debug)]
pub(super) struct Transcoded {
    pub(super) document: RawDocumentBuf,
    pub(super) reserved: Option<&'static str>,
}

struct Writer<'a> {
    out: Vec<u8>,
    /// Cleared by the error that says: not this way.
    is_plain: bool,
    /// Objects and lists that are open.
    depth: usize,
    reserved: &'a [&'static str],
    found: Option<&'static str>,
}

impl Writer<'_> {
    fn not_plain<E: de::Error>(&mut self) -> E {
        self.is_plain = false;
        E::custom("not plain JSON")
    }

    fn element(&mut self, name: &str) -> usize {
        elements::element(&mut self.out, name)
    }

    fn open(&mut self) -> usize {
        self.depth += 1;
        elements::open(&mut self.out)
    }

    fn close<E: de::Error>(&mut self, at: usize) -> Result<(), E> {
        self.depth -= 1;
        elements::close(&mut self.out, at).ok_or_else(|| E::custom("more than 2 GiB"))
    }
}

/// Takes an object.
struct Object<'a, 'b>(&'a mut Writer<'b>);

impl<'de> DeserializeSeed<'de> for Object<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(writer) = self;
        let start = writer.open();
        // Where the names so far stand in the output.
        let mut names = [(0, 0); MAX_PLAIN_FIELDS];
        let mut count = 0;
        while let Some((at, name)) = map.next_key_seed(Name { writer, earlier: &names[..count] })? {
            names[count] = name;
            count += 1;
            map.next_value_seed(Value { writer, at })?;
            if count == MAX_PLAIN_FIELDS {
                return Err(writer.not_plain());
            }
        }
        writer.close(start)
    }
}

/// Takes the name of a field and opens its element; gives where that stands, and the bounds of the name.
struct Name<'a, 'b> {
    writer: &'a mut Writer<'b>,
    earlier: &'a [(usize, usize)],
}

impl<'de> DeserializeSeed<'de> for Name<'_, '_> {
    type Value = (usize, (usize, usize));
    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_, '_> {
    type Value = (usize, (usize, usize));

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a field's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        let Self { writer, earlier } = self;
        let is_known = |(from, to): &(usize, usize)| &writer.out[*from..*to] == name.as_bytes();
        // `$` may begin extended JSON.
        if name.starts_with('$') || earlier.iter().any(is_known) {
            return Err(writer.not_plain());
        }
        if name.contains('\0') {
            return Err(E::custom("a field's name holds a NUL"));
        }
        if writer.depth == 1
            && let Some(reserved) = writer.reserved.iter().find(|reserved| **reserved == name)
        {
            writer.found = Some(reserved);
        }
        let at = writer.element(name);
        Ok((at, (at + 1, at + 1 + name.len())))
    }
}

/// Takes a value and completes the element at `at`.
struct Value<'a, 'b> {
    writer: &'a mut Writer<'b>,
    at: usize,
}

impl Value<'_, '_> {
    fn put(self, kind: u8, bytes: &[u8]) {
        self.writer.out[self.at] = kind;
        self.writer.out.extend_from_slice(bytes);
    }

    fn integer(self, value: i64) {
        elements::integer(&mut self.writer.out, self.at, value);
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.put(kind::BOOLEAN, &[u8::from(value)]);
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.integer(value);
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        let value = i64::try_from(value)
            .map_err(|_| E::custom(format!("{value} does not fit 64 bits with a sign")))?;
        self.integer(value);
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.put(kind::DOUBLE, &value.to_le_bytes());
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.put(kind::NULL, &[]);
        Ok(())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        let written = elements::text(&mut self.writer.out, self.at, value);
        written.ok_or_else(|| E::custom("a string of more than 2 GiB"))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.writer.out[self.at] = kind::DOCUMENT;
        Object(self.writer).visit_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { writer, at } = self;
        writer.out[at] = kind::ARRAY;
        let start = writer.open();
        for place in 0_usize.. {
            // The name is written before it is known whether there is an item, and taken back if there is none.
            let at = writer.element(&place.to_string());
            if items.next_element_seed(Value { writer, at })?.is_none() {
                writer.out.truncate(at);
                break;
            }
        }
        writer.close(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn by_the_library(text: &str) -> Document {
        serde_json::from_str(text).unwrap()
    }

    fn tree(text: &str) -> Document {
        Document::try_from(&*document(text, &[]).unwrap().document).unwrap()
    }

    #[test]
    fn it_gives_what_the_library_gives() {
        for text in [
            "{}",
            r#"{"a":1,"b":-1,"c":2147483648,"d":1.5,"e":"ü\n","f":true,"g":null,"h":[],"i":{}}"#,
            r#"{"nested":{"list":[1,"two",[3,{"four":4}],null],"deep":{"deeper":{"x":false}}}}"#,
            r#"{"oid":{"$oid":"507f1f77bcf86cd799439011"},"n":{"$numberLong":"5"}}"#,
            r#"{"a":1,"b":2,"a":3}"#,
            r#"{"":"an empty name"}"#,
        ] {
            // The library keeps negative integers at 64 bits.
            assert_eq!(plain(tree(text)), plain(by_the_library(text)), "{text}");
        }
    }

    /// As JSON, where the width of an integer does not show.
    fn plain(document: Document) -> serde_json::Value {
        bson::Bson::Document(document).into_relaxed_extjson()
    }

    #[test]
    fn many_fields_and_long_lists_are_whole() {
        let fields: serde_json::Map<String, serde_json::Value> =
            (0..300).map(|n| (format!("f{n}"), json!(n))).collect();
        let text = json!({ "wide": fields, "long": (0..300).collect::<Vec<_>>() }).to_string();
        assert_eq!(plain(tree(&text)), plain(by_the_library(&text)));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for text in [
            "",
            "[]",
            "1",
            "null",
            "{",
            r#"{"a":}"#,
            r#"{"a":1} x"#,
            r#"{"a\u0000b":1}"#,
            r#"{"n":18446744073709551615}"#,
        ] {
            assert!(document(text, &[]).is_err(), "{text}");
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|value| json!(value)),
            any::<i64>().prop_map(|value| json!(value)),
            any::<f32>().prop_filter("finite", |value| value.is_finite()).prop_map(|value| json!(value)),
            "[a-zü\"$]{0,8}".prop_map(|value| json!(value)),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(|items| json!(items)),
                proptest::collection::btree_map("[a-zü\"]{0,4}", inner, 0..6)
                    .prop_map(|fields| json!(fields)),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_document_is_what_the_library_makes_of_it(fields in proptest::collection::btree_map("[a-zü]{0,4}", any_json(), 0..8)) {
            let text = json!(fields).to_string();
            prop_assert_eq!(plain(tree(&text)), plain(by_the_library(&text)));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[ {}\\[\\]:,\"a$0-9.-]{0,40}") {
            let _ = document(&text, &["_id"]);
        }
    }
}

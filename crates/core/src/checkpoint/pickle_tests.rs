//! Pickles written by hand: values, refusals, bounds.

use super::*;

fn reason(bytes: &[u8]) -> String {
    Pickle::parse(bytes).unwrap_err().reason
}

#[test]
fn numbers_have_python_values() {
    fn value(bytes: &[u8]) -> Value<'_> {
        let pickle = Pickle::parse(bytes).unwrap();
        pickle.get(pickle.root).clone()
    }
    assert_eq!(value(b"J\xfe\xff\xff\xff."), Value::Int(-2));
    assert_eq!(value(b"M\x01\x02."), Value::Int(0x201));
    assert_eq!(value(b"\x8a\x00."), Value::Int(0));
    assert_eq!(value(b"\x8a\x01\xff."), Value::Int(-1));
    assert_eq!(value(b"\x8a\x02\xff\x00."), Value::Int(255));
}

#[test]
fn any_other_name_is_refused_by_name() {
    // os.system("true"), as protocol 2 and as protocol 4 write it
    assert!(reason(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.").contains("`os.system`"));
    assert!(reason(b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c\x04true\x85R.").contains("`os.system`"));
    assert!(reason(b"c__builtin__\neval\n.").contains("`__builtin__.eval`"));
}

#[test]
fn opcodes_that_create_objects_are_refused() {
    for opcode in [0x81, 0x92, b'i', b'o', 0x82, b'P'] {
        assert!(reason(&[b')', b')', opcode, b'.']).contains("opcode"), "{opcode:#x}");
    }
}

#[test]
fn nonsense_is_an_error() {
    for bytes in [
        &b""[..],
        b".",
        b"(.",
        b"N(0.",
        b"\x85.",
        b"t.",
        b"Na.",
        b"}Ns.",
        b"}(Nu.",
        b"h\x00.",
        b"q\x00.",
        b"NNR.",
        b"NQ.",
        b"NNb.",
        b"NN\x93.",
        b"X\xff\xff\xff\xff.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"U\x01\xff.",
        b"cos\nsys",
    ] {
        assert!(Pickle::parse(bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_million_nested_tuples_neither_overflow_the_stack_nor_fail() {
    let pickle = [&b"N"[..], &vec![0x85; 1_000_000], b"."].concat();
    drop(Pickle::parse(&pickle).unwrap());
}

#[test]
fn a_list_that_holds_itself_is_read_once() {
    let pickle = Pickle::parse(b"]q\x00h\x00a.").unwrap();
    assert_eq!(pickle.get(pickle.root), &Value::List(vec![pickle.root]));
}

#[test]
fn copying_a_long_list_again_and_again_is_cut_off() {
    // a list of 10,000 pairs, made an ordered dictionary 1,000 times over
    let mut pickle = b"](".to_vec();
    pickle.extend(b"NN\x86".repeat(10_000));
    pickle.extend(b"e\x85q\x000ccollections\nOrderedDict\nq\x010");
    pickle.extend(b"h\x01h\x00R0".repeat(1_000));
    pickle.extend(b"N.");
    assert!(reason(&pickle).contains("copies"));
}

#[test]
fn endless_programs_are_cut_off() {
    assert!(reason(&[b'N'; MAX_STEPS + 1]).contains("steps"));
}

//! A reader of the pickles that `torch.save` writes for tensors, which executes nothing.
//!
//! A pickle is a program for a stack machine that may call any function of Python. This machine knows the opcodes and
//! the handful of names that state dictionaries use; every other name is an error that says which. Values live in an
//! arena and refer to each other by index, so that neither deep nesting nor cycles cost stack or leak, and memory is
//! bounded by the pickle's length.
//!
//! Opcodes: <https://docs.python.org/3/library/pickletools.html>.

use std::collections::HashMap;

use super::Bad;
use super::element::{Element, Layout};

/// Pickles of state dictionaries take some hundred bytes a tensor.
const MAX_BYTES: usize = 64 << 20;
const MAX_STEPS: usize = 4 << 20;
const MAX_STRING: usize = 1 << 20;
const MAX_DIMS: usize = 16;
/// Items that calls copy out of lists and tuples: without a bound, a short program could copy a long list very often.
const MAX_COPIED: usize = 4 << 20;

/// Index into [`Pickle::values`].
pub(super) type Id = u32;

/// What a pickle can hold here.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// Too long for an `i64`: little-endian two's complement.
    Long(&'a [u8]),
    /// A number that no tensor depends on.
    Float,
    Str(&'a str),
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage<'a>),
    Tensor(TensorRef<'a>),
}

/// The names a state dictionary may refer to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
}

impl Global {
    fn named(module: &str, name: &str) -> Result<Self, Bad> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch" | "torch.storage", "DoubleStorage") => Self::Storage(Element::F64),
            ("torch" | "torch.storage", "FloatStorage") => Self::Storage(Element::F32),
            ("torch" | "torch.storage", "HalfStorage") => Self::Storage(Element::F16),
            ("torch" | "torch.storage", "BFloat16Storage") => Self::Storage(Element::BF16),
            ("torch" | "torch.storage", "LongStorage") => Self::Storage(Element::I64),
            ("torch" | "torch.storage", "IntStorage") => Self::Storage(Element::I32),
            ("torch" | "torch.storage", "ShortStorage") => Self::Storage(Element::I16),
            ("torch" | "torch.storage", "CharStorage") => Self::Storage(Element::I8),
            ("torch" | "torch.storage", "ByteStorage") => Self::Storage(Element::U8),
            ("torch" | "torch.storage", "BoolStorage") => Self::Storage(Element::Bool),
            _ => {
                return Err(Bad::new(format!(
                    "the pickle asks for `{}.{}`, which topwork does not execute: it reads tensors only",
                    module.escape_debug(),
                    name.escape_debug()
                ))
                .remedy(
                    "if you trust the file, load it in Python and save `model.state_dict()` alone, best as safetensors",
                ));
            }
        })
    }
}

/// A piece of the file that tensors look into.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Storage<'a> {
    pub key: &'a str,
    pub element: Element,
    /// Number of elements, as declared.
    pub len: usize,
}

/// A tensor whose elements have not been read yet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorRef<'a> {
    pub storage: Storage<'a>,
    pub layout: Layout,
}

/// The values of one pickle.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    /// The value that the pickle stands for.
    pub root: Id,
    /// Bytes the pickle took.
    pub len: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle at the start of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Bad> {
        let mut machine = Machine {
            bytes: &bytes[..bytes.len().min(MAX_BYTES)],
            position: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copied: 0,
        };
        let root = machine.run()?;
        Ok(Self { values: machine.values, root, len: machine.position })
    }

    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    /// Every storage mentioned anywhere.
    pub fn storages(&self) -> impl Iterator<Item = &Storage<'a>> {
        self.values.iter().filter_map(|value| match value {
            Value::Storage(storage) => Some(storage),
            _ => None,
        })
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    position: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    copied: usize,
}

fn damaged(what: &str) -> Bad {
    Bad::new(format!("a damaged or truncated pickle ({what})"))
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, Bad> {
        for _ in 0..MAX_STEPS {
            let at = self.position;
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode, at)?;
        }
        Err(Bad::new(format!("a pickle of more than {MAX_STEPS} steps")))
    }

    fn step(&mut self, opcode: u8, at: usize) -> Result<(), Bad> {
        match opcode {
            // PROTO, FRAME
            0x80 => _ = self.byte()?,
            0x95 => _ = self.take(8)?,
            // MARK, POP, POP_MARK
            b'(' => self.marks.push(self.stack.len()),
            b'0' => _ = self.pop()?,
            b'1' => _ = self.pop_to_mark()?,
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            // BININT, BININT1, BININT2, LONG1, BINFLOAT
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            0x8a => {
                let len = self.byte()?;
                let digits = self.take(len.into())?;
                self.push(long(digits));
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Float);
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8, and the byte strings of Python 2: SHORT_BINSTRING, BINSTRING
            0x8c | b'U' => self.text(1)?,
            b'X' | b'T' => self.text(4)?,
            0x8d => self.text(8)?,
            // SHORT_BINBYTES, BINBYTES, BINBYTES8
            b'C' => self.blob(1)?,
            b'B' => self.blob(4)?,
            0x8e => self.blob(8)?,
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85..=0x87 => {
                let start = self.stack.len().checked_sub(usize::from(opcode - 0x84));
                let start = start.filter(|&start| start >= self.floor()).ok_or_else(|| damaged("empty stack"))?;
                let items = self.stack.split_off(start);
                self.push(Value::Tuple(items));
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            // EMPTY_LIST, LIST, EMPTY_DICT, DICT
            b']' => self.push(Value::List(Vec::new())),
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items));
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Dict(pairs(&items)?));
            }
            // APPEND, APPENDS, SETITEM, SETITEMS
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![(key, value)])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(pairs(&items)?)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => {
                let key = self.byte()?;
                self.memoize(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.memoize(key)?;
            }
            0x94 => self.memoize(self.memo.len() as u32)?,
            b'h' => {
                let key = self.byte()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let global = Global::named(module, name)?;
                self.push(Value::Global(global));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (&Value::Str(module), &Value::Str(name)) = (self.value(module), self.value(name)) else {
                    return Err(damaged("a name that is not text"));
                };
                let global = Global::named(module, name)?;
                self.push(Value::Global(global));
            }
            // REDUCE, BUILD, BINPERSID
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'Q' => self.persistent()?,
            _ => {
                return Err(Bad::new(format!(
                    "the pickle uses opcode {opcode:#04x} at byte {at}, which no state dictionary needs"
                )));
            }
        }
        Ok(())
    }

    // --- bytes ---

    fn take(&mut self, len: usize) -> Result<&'a [u8], Bad> {
        let end = self.position.checked_add(len).filter(|&end| end <= self.bytes.len());
        let taken = &self.bytes[self.position..end.ok_or_else(|| damaged("it ends too early"))?];
        self.position += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Bad> {
        let (chunks, _) = self.take(N)?.as_chunks::<N>();
        Ok(chunks[0])
    }

    fn byte(&mut self) -> Result<u8, Bad> {
        Ok(self.array::<1>()?[0])
    }

    fn counted(&mut self, width: usize) -> Result<&'a [u8], Bad> {
        let len = self.take(width)?.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
        self.take(usize::try_from(len).map_err(|_| damaged("it ends too early"))?)
    }

    fn text(&mut self, width: usize) -> Result<(), Bad> {
        let bytes = self.counted(width)?;
        if bytes.len() > MAX_STRING {
            return Err(Bad::new(format!("the pickle holds a text of {} bytes", bytes.len())));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("a text that is not UTF-8"))?;
        self.push(Value::Str(text));
        Ok(())
    }

    fn blob(&mut self, width: usize) -> Result<(), Bad> {
        self.counted(width)?;
        self.push(Value::Bytes);
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str, Bad> {
        let rest = &self.bytes[self.position..];
        let len = rest.iter().take(MAX_STRING).position(|&byte| byte == b'\n');
        let line = self.take(len.ok_or_else(|| damaged("it ends too early"))?)?;
        self.position += 1;
        std::str::from_utf8(line).map_err(|_| damaged("a name that is not UTF-8"))
    }

    // --- stack, memo ---

    fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    fn push(&mut self, value: Value<'a>) {
        // At most one value a step, so the number of steps bounds the arena and fits an `Id`.
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, Bad> {
        if self.stack.len() <= self.floor() {
            return Err(damaged("empty stack"));
        }
        self.stack.pop().ok_or_else(|| damaged("empty stack"))
    }

    fn top(&self) -> Result<Id, Bad> {
        self.stack.last().copied().filter(|_| self.stack.len() > self.floor()).ok_or_else(|| damaged("empty stack"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Bad> {
        let mark = self.marks.pop().ok_or_else(|| damaged("no mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn memoize(&mut self, key: u32) -> Result<(), Bad> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), Bad> {
        self.stack.push(*self.memo.get(&key).ok_or_else(|| damaged("an unknown memo"))?);
        Ok(())
    }

    // --- containers ---

    fn append(&mut self, items: Vec<Id>) -> Result<(), Bad> {
        let list = self.top()?;
        match &mut self.values[list as usize] {
            Value::List(list) => list.extend(items),
            _ => return Err(damaged("items appended to what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<(Id, Id)>) -> Result<(), Bad> {
        let dict = self.top()?;
        match &mut self.values[dict as usize] {
            Value::Dict(dict) => dict.extend(items),
            _ => return Err(damaged("entries set in what is no dictionary")),
        }
        Ok(())
    }

    fn items(&self, id: Id) -> Result<&[Id], Bad> {
        match self.value(id) {
            Value::Tuple(items) | Value::List(items) => Ok(items),
            _ => Err(damaged("a tuple was expected")),
        }
    }

    // --- the few calls that are understood ---

    fn reduce(&mut self) -> Result<(), Bad> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let items = self.items(arguments)?.iter().take(MAX_DIMS);
        self.copied += items.map(|&item| self.items(item).map_or(0, <[Id]>::len)).sum::<usize>();
        if self.copied > MAX_COPIED {
            return Err(Bad::new(format!("a pickle that copies more than {MAX_COPIED} items")));
        }
        let arguments = self.items(arguments)?;
        let value = match (self.value(callable), arguments) {
            (Value::Global(Global::OrderedDict), []) => Value::Dict(Vec::new()),
            (Value::Global(Global::OrderedDict), &[entries]) => {
                let entry = |&entry: &Id| match self.items(entry)? {
                    &[key, value] => Ok((key, value)),
                    _ => Err(damaged("an entry that is no pair")),
                };
                Value::Dict(self.items(entries)?.iter().map(entry).collect::<Result<_, _>>()?)
            }
            (Value::Global(Global::RebuildTensor), &[storage, offset, shape, stride, ..]) => {
                let Value::Storage(storage) = self.value(storage) else {
                    return Err(damaged("a tensor without a storage"));
                };
                let layout =
                    Layout { offset: self.size(offset)?, shape: self.sizes(shape)?, stride: self.sizes(stride)? };
                Value::Tensor(TensorRef { storage: storage.clone(), layout })
            }
            (Value::Global(Global::RebuildParameter), &[tensor, ..]) => match self.value(tensor) {
                Value::Tensor(tensor) => Value::Tensor(tensor.clone()),
                _ => return Err(damaged("a parameter without a tensor")),
            },
            _ => return Err(damaged("a call that makes no sense")),
        };
        self.push(value);
        Ok(())
    }

    /// Sets attributes. Those of dictionaries (`_metadata` with the modules' versions) are not needed; nothing else
    /// that is read here has any.
    fn build(&mut self) -> Result<(), Bad> {
        self.pop()?;
        let object = self.top()?;
        match self.value(object) {
            Value::Dict(_) | Value::Tensor(_) => Ok(()),
            _ => Err(damaged("attributes set on what has none")),
        }
    }

    /// `("storage", type, key, device, length[, view])`.
    fn persistent(&mut self) -> Result<(), Bad> {
        let id = self.pop()?;
        let items = self.items(id)?;
        let (&[kind, element, key, _, len], view) = items.split_at_checked(5).ok_or_else(|| damaged("storage"))? else {
            return Err(damaged("storage"));
        };
        let (Value::Str("storage"), &Value::Global(Global::Storage(element)), &Value::Str(key)) =
            (self.value(kind), self.value(element), self.value(key))
        else {
            return Err(Bad::new("the pickle refers to something other than a tensor storage")
                .remedy("save `model.state_dict()` instead of the model itself"));
        };
        if view.iter().any(|&view| *self.value(view) != Value::None) {
            return Err(Bad::new("storages that are views of others, from PyTorch before 0.4")
                .remedy("load and save the file again with a newer PyTorch"));
        }
        let storage = Storage { key, element, len: self.size(len)? };
        self.push(Value::Storage(storage));
        Ok(())
    }

    fn size(&self, id: Id) -> Result<usize, Bad> {
        match self.value(id) {
            Value::Int(n) => usize::try_from(*n).map_err(|_| damaged("a negative size")),
            _ => Err(damaged("a size that is no number")),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>, Bad> {
        let items = self.items(id)?;
        if items.len() > MAX_DIMS {
            return Err(Bad::new(format!("a tensor of {} dimensions", items.len())));
        }
        items.iter().map(|&item| self.size(item)).collect()
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Bad> {
    match items.as_chunks::<2>() {
        (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        _ => Err(damaged("a key without a value")),
    }
}

fn long(digits: &[u8]) -> Value<'_> {
    if digits.len() > 8 {
        return Value::Long(digits);
    }
    let sign = if digits.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
    let mut bytes = [sign; 8];
    bytes[..digits.len()].copy_from_slice(digits);
    Value::Int(i64::from_le_bytes(bytes))
}

#[cfg(test)]
#[path = "pickle_tests.rs"]
mod tests;

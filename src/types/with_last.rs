//! A list whose last element lies in it: most of what is appended to looks at that one only, and with many
//! lists each look at a list's memory is one at memory that no cache has.

use std::ops::Deref;

/// Shape: a `Vec`, and a copy of its last element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithLast<T: Copy> {
    all: Vec<T>,
    last: Option<T>,
}

impl<T: Copy> Default for WithLast<T> {
    fn default() -> WithLast<T> {
        WithLast { all: Vec::new(), last: None }
    }
}

impl<T: Copy> WithLast<T> {
    pub fn last(&self) -> Option<&T> {
        self.last.as_ref()
    }

    pub fn push(&mut self, element: T) {
        self.all.push(element);
        self.last = Some(element);
    }

    /// Changes the last element, if there is one.
    pub fn replace_last(&mut self, element: T) {
        if let Some(last) = self.all.last_mut() {
            *last = element;
            self.last = Some(element);
        }
    }

    /// Any other change.
    pub fn edit<R>(&mut self, edit: impl FnOnce(&mut Vec<T>) -> R) -> R {
        let result = edit(&mut self.all);
        self.last = self.all.last().copied();
        result
    }
}

impl<T: Copy> From<Vec<T>> for WithLast<T> {
    fn from(all: Vec<T>) -> WithLast<T> {
        WithLast { last: all.last().copied(), all }
    }
}

impl<T: Copy> Deref for WithLast<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(u8),
        ReplaceLast(u8),
        Truncate(usize),
        RemoveFirst,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<u8>().prop_map(Step::Push),
            any::<u8>().prop_map(Step::ReplaceLast),
            (0usize..6).prop_map(Step::Truncate),
            Just(Step::RemoveFirst),
        ]
    }

    proptest! {
        #[test]
        fn it_is_its_list(steps in proptest::collection::vec(step(), 0..40)) {
            let (mut list, mut model) = (WithLast::default(), Vec::new());
            for step in steps {
                match step {
                    Step::Push(element) => {
                        list.push(element);
                        model.push(element);
                    }
                    Step::ReplaceLast(element) => {
                        list.replace_last(element);
                        model.last_mut().into_iter().for_each(|last| *last = element);
                    }
                    Step::Truncate(len) => {
                        list.edit(|all| all.truncate(len));
                        model.truncate(len);
                    }
                    Step::RemoveFirst if !model.is_empty() => {
                        prop_assert_eq!(list.edit(|all| all.remove(0)), model.remove(0));
                    }
                    Step::RemoveFirst => {}
                }
                prop_assert_eq!(&list[..], &model[..]);
                prop_assert_eq!(list.last(), model.last());
            }
        }
    }
}

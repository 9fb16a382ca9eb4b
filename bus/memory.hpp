// bus/memory.hpp: the only place that spells an atomic operation on shared memory.
//
// The slot and checkpoint protocol (slot.hpp) is written over a memory that it is given, so that
// the very code that workers run can be run by the model checker on a memory weaker than any
// machine's (tests/model_slots.cpp). Each operation is named for its part in the protocol; the
// checker breaks them one at a time and shows that each is necessary.
//
//   EDGES. Every acquire and release of this project is one of these.
//   MARK      writer's fence after the mark      -> reader's fence before the second look
//             If it breaks: a reader that copied new fields still sees the old sequence word, and
//             takes a torn record for a whole one.
//   WHOLE     writer's last store of the word    -> reader's first load of the word
//             If it breaks: a reader sees the word of a whole record but fields from before it.
//   PUBLISH   writer stores `published`          -> reader loads `published`
//             If it breaks: a reader is told of a record whose slot it cannot see yet.
//   INTERN    writer stores the dictionary count -> reader loads the dictionary count
//             If it breaks: a reader prints a label text that is not there yet.
//   STATUS    writer stores the status word      -> reader loads the status word
//             If it breaks: a reader pairs a phase with the stamp of the phase before it.
//   DEATH     writer's mark, after all before it -> reader finds the lock of the segment free
//             If it breaks: a compiler moves a mark up, and a killed writer leaves two records
//             open, or both checkpoints.
//   END
//
// There is no edge from a reader to a writer: nothing that a reader does can reach a producer.
// The reader's end of DEATH is the kernel's: it drops the lock of a mapping only after the address
// space is gone, so a reader that finds the lock free sees every store of the dead.
#pragma once

#include <cstdint>

#if defined(__SANITIZE_THREAD__)
#define RANKBUS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RANKBUS_TSAN 1
#endif
#endif

namespace rankbus::bus {

using Word = std::uint64_t;

struct ProcessMemory {
  // Release for what comes before the mark; what comes after it needs the fence.
  void store_mark(Word* word, Word value) const noexcept {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);  // DEATH
  }

#if defined(RANKBUS_TSAN)
  // Thread sanitizer knows no fences, so the same ordering is spelled on every field instead, which
  // the model check shows to be sound too.
  void fence_after_mark() const noexcept {}
  void store_field(Word* word, Word value) const noexcept {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);  // MARK
  }
  Word load_field(const Word* word) const noexcept {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);  // MARK
  }
  void fence_before_recheck() const noexcept {}
#else
  void fence_after_mark() const noexcept {
    __atomic_thread_fence(__ATOMIC_RELEASE);  // MARK
  }
  // Relaxed: the fence above orders the fields after the mark, the store of the word before itself.
  void store_field(Word* word, Word value) const noexcept {
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
  }
  // Relaxed: a torn copy is allowed here, because the second look at the word finds it out.
  Word load_field(const Word* word) const noexcept {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
  }
  void fence_before_recheck() const noexcept {
    __atomic_thread_fence(__ATOMIC_ACQUIRE);  // MARK
  }
#endif

  void store_whole(Word* word, Word value) const noexcept {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);  // WHOLE
  }
  Word load_word(const Word* word) const noexcept {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);  // WHOLE
  }
  // Relaxed: the fence before it already orders it after the copy of the fields.
  Word load_word_again(const Word* word) const noexcept {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
  }

  void store_published(Word* word, Word value) const noexcept {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);  // PUBLISH
  }
  Word load_published(const Word* word) const noexcept {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);  // PUBLISH
  }

  void store_interned(Word* word, Word value) const noexcept {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);  // INTERN
  }
  Word load_interned(const Word* word) const noexcept {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);  // INTERN
  }

  void store_status(Word* word, Word value) const noexcept {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);  // STATUS
  }
  Word load_status(const Word* word) const noexcept {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);  // STATUS
  }

  // Relaxed: a count of its own that orders nothing; threads of an inert producer share it.
  void count(Word* word) const noexcept {
    __atomic_fetch_add(word, 1, __ATOMIC_RELAXED);
  }

  // Relaxed: read in the writer's own process only, of words that nobody else writes.
  Word load_own(const Word* word) const noexcept {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
  }
};

static_assert(__atomic_always_lock_free(sizeof(Word), nullptr),
              "a lock inside the mapping would die with whichever process held it");

}  // namespace rankbus::bus

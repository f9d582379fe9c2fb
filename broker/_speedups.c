/* The optional accelerator: what every message passes, in compiled code.

   Nothing is decided here.  Each function does what Python code does that stands beside
   its use, for the input that clients nearly always send, and leaves all other input to
   that code, which is the reference:

   read_frames()     broker/web/ws/reader.py         finds whole frames in a chunk
   read_envelope()   protocols/owlmeans/codec.py     finds the members of a message
   write_json()      protocols/owlmeans/codec.py     builds an outgoing message

   tests/speedups and tests/web/ws/test_websocket_fuzz.py compare both ways with random
   input, under sanitizers, too.

   All state is the module's, so that each interpreter has its own, and the GIL is never
   released.  A place in a bytes object is at most its size: what is left of it is
   computed, and compared with what is wanted, never the sum of the two. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Of frames: RFC 6455, 5.2. */
#define TEXT 0x81               /* the first byte: FIN, no extension bits, the opcode */
#define BINARY 0x82
#define MASKED 0x80             /* the second: the mask bit, and the length, */
#define TWO_BYTES 0xFE          /* or that two bytes hold it, */
#define EIGHT_BYTES 0xFF        /* or eight */

#define MAX_DEPTH 64            /* arrays and objects within each other, in a payload */
#define MAX_NUMBER 200          /* bytes of a number: shorter ones are finite as a double
                                   when their exponent has two digits at most */
#define MAX_DIGITS 15           /* of a time: a double has them all */
#define MAX_VALUES 12           /* of one outgoing message */

/* What most messages are. */
static const char *const KINDS[] = {"call", "result", "event", "error", "message"};
#define NUMBER_OF_KINDS ((int)(sizeof(KINDS) / sizeof(KINDS[0])))

typedef struct {
    PyTypeObject *frames_type;
    PyTypeObject *envelope_type;
    PyObject *empty;            /* "" */
    PyObject *no_time;          /* 0.0 */
    PyObject *kinds[NUMBER_OF_KINDS];
} State;


/* read_frames(): an iterator over the complete data frames at the beginning of a chunk. */

typedef struct {
    PyObject_HEAD
    PyObject *data;             /* bytes */
    Py_ssize_t position;        /* where the next frame begins; at most the size of data */
    Py_ssize_t limit;           /* bytes that a payload may have */
    char slow;                  /* whether what comes next is for the slow path */
} Frames;

PyDoc_STRVAR(read_frames_doc,
"read_frames(data, start, limit, /)\n--\n\n"
"Return an iterator over the frames of data from start on: the payload of each, which has\n"
"at most limit bytes, and whether it is binary.  It ends before anything else.");

static PyObject *
read_frames(PyObject *module, PyObject *args)
{
    State *state = PyModule_GetState(module);
    PyObject *data;
    Py_ssize_t start, limit;

    if (!PyArg_ParseTuple(args, "Snn:read_frames", &data, &start, &limit))
        return NULL;
    if (start < 0 || start > PyBytes_GET_SIZE(data)) {
        PyErr_SetString(PyExc_ValueError, "start is not in data");
        return NULL;
    }
    Frames *self = PyObject_New(Frames, state->frames_type);
    if (self == NULL)
        return NULL;
    self->data = Py_NewRef(data);
    self->position = start;
    self->limit = limit;
    self->slow = 0;
    return (PyObject *)self;
}

static void
frames_dealloc(Frames *self)
{
    PyTypeObject *type = Py_TYPE(self);

    Py_DECREF(self->data);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* Write size bytes of source to target, without their mask; return whether all are ASCII. */
static int
unmask(char *target, const unsigned char *source, Py_ssize_t size, const unsigned char *mask)
{
    uint64_t masks, word, seen = 0;
    Py_ssize_t i = 0;

    memcpy(&masks, mask, 4);
    memcpy((char *)&masks + 4, mask, 4);
    for (; size - i >= 8; i += 8) {
        memcpy(&word, source + i, 8);
        word ^= masks;
        seen |= word;
        memcpy(target + i, &word, 8);
    }
    for (; i < size; i++) {
        unsigned char byte = source[i] ^ mask[i & 3];
        seen |= byte;           /* its highest bit is one of those that are looked at */
        target[i] = (char)byte;
    }
    return (seen & UINT64_C(0x8080808080808080)) == 0;
}

/* Return whether payload is UTF-8, or -1 with an exception. */
static int
is_utf8(PyObject *payload)
{
    PyObject *text = PyUnicode_DecodeUTF8(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), NULL);

    if (text != NULL) {
        Py_DECREF(text);
        return 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
        return -1;
    PyErr_Clear();
    return 0;
}

static PyObject *
frames_next(Frames *self)
{
    const unsigned char *data = (unsigned char *)PyBytes_AS_STRING(self->data) + self->position;
    Py_ssize_t left = PyBytes_GET_SIZE(self->data) - self->position;
    Py_ssize_t size, start = 6;

    self->slow = 0;
    if (left < 2)
        return NULL;
    if ((data[0] != TEXT && data[0] != BINARY) || data[1] < MASKED || data[1] == EIGHT_BYTES)
        goto slow;
    if (data[1] < TWO_BYTES)
        size = data[1] & 0x7F;
    else {
        if (left < 8)
            return NULL;
        size = (Py_ssize_t)data[2] << 8 | data[3];
        start = 8;
        /* 5.2: "the minimal number of bytes MUST be used to encode the length". */
        if (size <= 125)
            goto slow;
    }
    if (size > self->limit)
        goto slow;
    if (size > left - start)
        return NULL;
    PyObject *payload = PyBytes_FromStringAndSize(NULL, size);
    if (payload == NULL)
        return NULL;
    int ascii = unmask(PyBytes_AS_STRING(payload), data + start, size, data + start - 4);
    if (data[0] == TEXT && !ascii) {
        int valid = is_utf8(payload);
        if (valid <= 0) {
            Py_DECREF(payload);
            if (valid == 0)
                goto slow;
            return NULL;
        }
    }
    PyObject *found = PyTuple_New(2);
    if (found == NULL) {
        Py_DECREF(payload);
        return NULL;
    }
    PyTuple_SET_ITEM(found, 0, payload);
    PyTuple_SET_ITEM(found, 1, Py_NewRef(data[0] == BINARY ? Py_True : Py_False));
    self->position += start + size;
    return found;

slow:
    self->slow = 1;
    return NULL;
}

static PyMemberDef frames_members[] = {
    {"position", T_PYSSIZET, offsetof(Frames, position), READONLY, "Where the next frame begins."},
    {"slow", T_BOOL, offsetof(Frames, slow), READONLY, "Whether what comes next is for the slow path."},
    {NULL}
};

static PyType_Slot frames_slots[] = {
    {Py_tp_doc, "What read_frames() returns."},
    {Py_tp_dealloc, frames_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, frames_next},
    {Py_tp_members, frames_members},
    {0, NULL}
};

static PyType_Spec frames_spec = {
    .name = "broker._speedups.Frames",
    .basicsize = sizeof(Frames),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = frames_slots,
};


/* read_envelope(): the members of a message of the native dialect.

   The functions that begin with skip_ return where something ends that begins at the first
   of two pointers, and NULL where it does not end before the second, or is not as usual. */

enum { TYPE, ID, METHOD, EVENT, RECIPIENT, STAGE, TIMEOUT, DT, PAYLOAD, MEMBERS };

typedef struct {
    PyObject_HEAD
    PyObject *members[MEMBERS];
} Envelope;

static void
envelope_dealloc(Envelope *self)
{
    PyTypeObject *type = Py_TYPE(self);

    for (int i = 0; i < MEMBERS; i++)
        Py_XDECREF(self->members[i]);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* The interpreter reads such an attribute without a call. */
#define MEMBER(name, index) \
    {name, T_OBJECT_EX, offsetof(Envelope, members) + (index) * sizeof(PyObject *), 0, NULL}

static PyMemberDef envelope_members[] = {
    MEMBER("type", TYPE),
    MEMBER("id", ID),
    MEMBER("method", METHOD),
    MEMBER("event", EVENT),
    MEMBER("recipient", RECIPIENT),
    MEMBER("stage", STAGE),
    MEMBER("timeout", TIMEOUT),
    MEMBER("dt", DT),
    MEMBER("payload", PAYLOAD),
    {NULL}
};

static PyType_Slot envelope_slots[] = {
    {Py_tp_doc, "What read_envelope() returns."},
    {Py_tp_dealloc, envelope_dealloc},
    {Py_tp_members, envelope_members},
    {0, NULL}
};

static PyType_Spec envelope_spec = {
    .name = "broker._speedups.Envelope",
    .basicsize = sizeof(Envelope),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = envelope_slots,
};

/* A piece of the text; of a member that is missing start is NULL. */
typedef struct {
    const char *start;
    const char *end;
} Span;

static inline int
is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static inline int
is_hex(char byte)
{
    return is_digit(byte) || ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f');
}

static inline const char *
skip_digits(const char *at, const char *end)
{
    while (at < end && is_digit(*at))
        at++;
    return at;
}

static inline const char *
skip_spaces(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
        at++;
    return at;
}

/* Of what stands in a JSON string for itself: all but controls, quotes and backslashes.  That may be all. */
static inline const char *
skip_plain(const char *at, const char *end)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);

    for (; end - at >= 8; at += 8) {
        uint64_t word, quotes, slashes;
        memcpy(&word, at, 8);
        quotes = word ^ ones * '"';
        slashes = word ^ ones * '\\';
        /* Each sets the highest bit of a byte that is less than a space, or 0, and never
           misses one; if it is set in vain, the loop below finds out. */
        if (((word - ones * ' ') & ~word & ones << 7) | ((quotes - ones) & ~quotes & ones << 7)
            | ((slashes - ones) & ~slashes & ones << 7))
            break;
    }
    while (at < end && (unsigned char)*at >= ' ' && *at != '"' && *at != '\\')
        at++;
    return at;
}

/* Of a string from behind its first quote; *escaped is set if it has escapes. */
static const char *
skip_string(const char *at, const char *end, int *escaped)
{
    for (;;) {
        at = skip_plain(at, end);
        if (at == end || (unsigned char)*at < ' ')
            return NULL;
        if (*at++ == '"')
            return at;
        *escaped = 1;
        if (at == end)
            return NULL;
        switch (*at++) {
        case '"': case '\\': case '/': case 'b': case 'f': case 'n': case 'r': case 't':
            break;
        case 'u':
            /* D800 to DFFF are halves of a pair, or alone. */
            if (end - at < 4 || !is_hex(at[0]) || !is_hex(at[1]) || !is_hex(at[2]) || !is_hex(at[3])
                || ((at[0] | 0x20) == 'd' && at[1] > '7'))
                return NULL;
            at += 4;
            break;
        default:
            return NULL;
        }
    }
}

/* Of a number that is finite as a double. */
static const char *
skip_number(const char *at, const char *end)
{
    const char *start = at, *digits;

    if (at < end && *at == '-')
        at++;
    digits = at;
    at = skip_digits(at, end);
    if (at == digits || (*digits == '0' && at - digits > 1))
        return NULL;
    if (at < end && *at == '.') {
        digits = at + 1;
        if ((at = skip_digits(digits, end)) == digits)
            return NULL;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        digits = at + 1;
        if (digits < end && (*digits == '+' || *digits == '-'))
            digits++;
        at = skip_digits(digits, end);
        if (at == digits || at - digits > 2)
            return NULL;
    }
    return at - start < MAX_NUMBER ? at : NULL;
}

/* Of a string, a number, true, false or null. */
static const char *
skip_scalar(const char *at, const char *end)
{
    int escaped;

    if (*at == '"')
        return skip_string(at + 1, end, &escaped);
    if (end - at >= 4 && (memcmp(at, "true", 4) == 0 || memcmp(at, "null", 4) == 0))
        return at + 4;
    if (end - at >= 5 && memcmp(at, "false", 5) == 0)
        return at + 5;
    return skip_number(at, end);
}

/* Of a name, which *name becomes, the colon behind it, and spaces: it is before end. */
static const char *
skip_name(const char *at, const char *end, Span *name, int *escaped)
{
    if (at == end || *at != '"')
        return NULL;
    name->start = at + 1;
    if ((at = skip_string(at + 1, end, escaped)) == NULL)
        return NULL;
    name->end = at - 1;
    at = skip_spaces(at, end);
    if (at == end || *at != ':')
        return NULL;
    at = skip_spaces(at + 1, end);
    return at < end ? at : NULL;
}

/* Of any value. */
static const char *
skip_value(const char *at, const char *end)
{
    char closing[MAX_DEPTH];    /* of what is open */
    int depth = 0, escaped;
    Span name;

    for (;;) {
        /* A value begins here. */
        if (at == end)
            return NULL;
        if (*at == '[' || *at == '{') {
            if (depth == MAX_DEPTH)
                return NULL;
            closing[depth++] = *at == '[' ? ']' : '}';
            at = skip_spaces(at + 1, end);
            if (at == end || *at != closing[depth - 1]) {
                if (closing[depth - 1] == '}' && (at = skip_name(at, end, &name, &escaped)) == NULL)
                    return NULL;
                continue;
            }
        }
        else if ((at = skip_scalar(at, end)) == NULL)
            return NULL;
        /* Here it has ended, or what it is in is about to. */
        for (;;) {
            if (depth == 0)
                return at;
            at = skip_spaces(at, end);
            if (at == end)
                return NULL;
            if (*at == ',')
                break;
            if (*at++ != closing[--depth])
                return NULL;
        }
        at = skip_spaces(at + 1, end);
        if (closing[depth - 1] == '}' && (at = skip_name(at, end, &name, &escaped)) == NULL)
            return NULL;
    }
}

/* Return which of the members of an envelope is called so, or -1. */
static int
member_called(Span name)
{
    static const Py_ssize_t sizes[MEMBERS] = {4, 2, 6, 5, 9, 5, 7, 2, 7};

    for (int i = 0; i < MEMBERS; i++)
        if (name.end - name.start == sizes[i] && memcmp(name.start, envelope_members[i].name, sizes[i]) == 0)
            return i;
    return -1;
}

/* Find the members of the object that the text is; return whether it is one as usual: the
   broker knows all of its members, each is there once and of its type, and has no escapes. */
static int
find_members(const char *at, const char *end, Span found[MEMBERS])
{
    if (at == end || *at != '{')
        return 0;
    do {
        int escaped = 0;
        Span name, *span;
        at = skip_name(skip_spaces(at + 1, end), end, &name, &escaped);
        if (at == NULL || escaped)
            return 0;
        int member = member_called(name);
        if (member < 0 || found[member].start != NULL)
            return 0;
        span = &found[member];
        span->start = at;
        if (member == PAYLOAD) {
            if ((at = skip_value(at, end)) == NULL)
                return 0;
            span->end = at;
        }
        else if (member == TIMEOUT || member == DT) {
            span->end = at = skip_digits(at, end);
            if (at == span->start || at - span->start > MAX_DIGITS || (*span->start == '0' && at - span->start > 1))
                return 0;
        }
        else {
            if (*at != '"' || (at = skip_string(at + 1, end, &escaped)) == NULL || escaped)
                return 0;
            span->start++;
            span->end = at - 1;
        }
        at = skip_spaces(at, end);
    } while (at < end && *at == ',');
    return at < end && *at == '}' && skip_spaces(at + 1, end) == end
           && found[TYPE].start != NULL && found[PAYLOAD].start != NULL;
}

/* Return the text, which is shared if it is what most messages are. */
static PyObject *
text_in(Span span, State *state)
{
    Py_ssize_t size = span.end - span.start;

    for (int i = 0; i < NUMBER_OF_KINDS; i++) {
        PyObject *kind = state->kinds[i];
        if (PyUnicode_GET_LENGTH(kind) == size && memcmp(span.start, PyUnicode_DATA(kind), size) == 0)
            return Py_NewRef(kind);
    }
    return PyUnicode_DecodeUTF8(span.start, size, NULL);
}

/* Return the number that at most MAX_DIGITS digits are. */
static PyObject *
number_in(Span span)
{
    int64_t number = 0;

    for (const char *at = span.start; at < span.end; at++)
        number = 10 * number + (*at - '0');
    return PyFloat_FromDouble((double)number);
}

static PyObject *
make_envelope(State *state, const Span found[MEMBERS])
{
    Envelope *self = PyObject_New(Envelope, state->envelope_type);

    if (self == NULL)
        return NULL;
    memset(self->members, 0, sizeof(self->members));
    for (int i = 0; i < MEMBERS; i++) {
        Span span = found[i];
        PyObject *member;
        if (span.start == NULL)
            member = Py_NewRef(i < STAGE ? state->empty : i == DT ? state->no_time : Py_None);
        else if (i == PAYLOAD)
            member = PyBytes_FromStringAndSize(span.start, span.end - span.start);
        else if (i == TIMEOUT || i == DT)
            member = number_in(span);
        else
            member = text_in(span, state);
        if (member == NULL) {
            Py_DECREF(self);
            return NULL;
        }
        self->members[i] = member;
    }
    return (PyObject *)self;
}

PyDoc_STRVAR(read_envelope_doc,
"read_envelope(otherwise, data, /)\n--\n\n"
"Return the envelope that data is, or what otherwise(data) returns if it is not as usual.");

static PyObject *
read_envelope(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "read_envelope() takes a function and bytes");
        return NULL;
    }
    const char *text = PyBytes_AS_STRING(args[1]);
    Span found[MEMBERS] = {{NULL, NULL}};
    if (find_members(text, text + PyBytes_GET_SIZE(args[1]), found)) {
        PyObject *envelope = make_envelope(PyModule_GetState(module), found);
        if (envelope != NULL || !PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
            return envelope;
        PyErr_Clear();
    }
    return PyObject_CallOneArg(args[0], args[1]);
}


/* write_json(): a text with values in its places. */

typedef struct {
    const char *place;          /* in the form */
    const char *start;
    Py_ssize_t size;
    int quoted;                 /* 1 if there are quotes around it */
    PyObject *owner;            /* of the bytes, if they are not an argument's */
    char digits[20];            /* or here they are */
} Value;

/* Set the bytes of a value that stands for object; return -1 with an exception. */
static int
set_value(Value *value, PyObject *object, PyObject *encode)
{
    value->owner = NULL;
    value->quoted = 0;
    if (PyUnicode_CheckExact(object) && PyUnicode_IS_COMPACT_ASCII(object)) {
        value->start = PyUnicode_DATA(object);
        value->size = PyUnicode_GET_LENGTH(object);
        value->quoted = 1;
        const char *end = value->start + value->size;
        if (skip_plain(value->start, end) == end)
            return 0;
        value->quoted = 0;
    }
    else if (PyLong_CheckExact(object)) {
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
        if (!overflow && number >= 0) {
            char *at = value->digits + sizeof(value->digits);
            value->size = 0;
            do {
                *--at = (char)('0' + number % 10);
                value->size++;
            } while (number /= 10);
            value->start = at;
            return 0;
        }
    }
    if (!PyBytes_CheckExact(object)) {
        object = value->owner = PyObject_CallOneArg(encode, object);
        if (object == NULL)
            return -1;
        if (!PyBytes_CheckExact(object)) {
            PyErr_SetString(PyExc_TypeError, "a value was not encoded as bytes");
            return -1;
        }
    }
    value->start = PyBytes_AS_STRING(object);
    value->size = PyBytes_GET_SIZE(object);
    return 0;
}

static inline char *
append(char *out, const char *start, Py_ssize_t size)
{
    memcpy(out, start, size);
    return out + size;
}

PyDoc_STRVAR(write_json_doc,
"write_json(encode, form, /, *values)\n--\n\n"
"Return form, bytes, with the values in its places, each a percent sign and a letter: bytes as\n"
"they are, and all others as encode(value) writes them.");

static PyObject *
write_json(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count < 2 || count > MAX_VALUES + 2 || !PyBytes_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "write_json() takes a function, bytes and twelve values at most");
        return NULL;
    }
    PyObject *encode = args[0], *made = NULL;
    const char *form = PyBytes_AS_STRING(args[1]);
    const char *end = form + PyBytes_GET_SIZE(args[1]), *at = form;
    Value values[MAX_VALUES];
    Py_ssize_t found = 0, size = end - form;

    while ((at = memchr(at, '%', end - at)) != NULL && found < count - 2 && end - at >= 2) {
        Value *value = &values[found++];
        value->place = at;
        at += 2;
        if (set_value(value, args[found + 1], encode) < 0)
            goto finish;
        if (value->size > PY_SSIZE_T_MAX - size) {
            PyErr_NoMemory();
            goto finish;
        }
        size += value->size + 2 * value->quoted - 2;
    }
    if (at != NULL || found != count - 2) {
        PyErr_SetString(PyExc_TypeError, "there must be as many values as places");
        goto finish;
    }
    made = PyBytes_FromStringAndSize(NULL, size);
    if (made == NULL)
        goto finish;
    char *out = PyBytes_AS_STRING(made);
    for (const Value *value = values; value < values + found; value++) {
        out = append(out, form, value->place - form);
        out = append(out, "\"", value->quoted);
        out = append(out, value->start, value->size);
        out = append(out, "\"", value->quoted);
        form = value->place + 2;
    }
    append(out, form, end - form);

finish:
    while (found > 0)
        Py_XDECREF(values[--found].owner);
    return made;
}


/* The module. */

static int
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int
speedups_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);

    for (int i = 0; i < NUMBER_OF_KINDS; i++)
        if ((state->kinds[i] = PyUnicode_InternFromString(KINDS[i])) == NULL)
            return -1;
    if ((state->empty = PyUnicode_FromStringAndSize(NULL, 0)) == NULL
        || (state->no_time = PyFloat_FromDouble(0.0)) == NULL
        || add_type(module, &frames_spec, &state->frames_type) < 0)
        return -1;
    return add_type(module, &envelope_spec, &state->envelope_type);
}

static int
speedups_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);

    Py_VISIT(state->frames_type);
    Py_VISIT(state->envelope_type);
    return 0;
}

static int
speedups_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);

    Py_CLEAR(state->frames_type);
    Py_CLEAR(state->envelope_type);
    Py_CLEAR(state->empty);
    Py_CLEAR(state->no_time);
    for (int i = 0; i < NUMBER_OF_KINDS; i++)
        Py_CLEAR(state->kinds[i]);
    return 0;
}

static void
speedups_free(void *module)
{
    speedups_clear((PyObject *)module);
}

static PyMethodDef speedups_methods[] = {
    {"read_frames", read_frames, METH_VARARGS, read_frames_doc},
    {"read_envelope", (PyCFunction)(void (*)(void))read_envelope, METH_FASTCALL, read_envelope_doc},
    {"write_json", (PyCFunction)(void (*)(void))write_json, METH_FASTCALL, write_json_doc},
    {NULL}
};

static PyModuleDef_Slot speedups_slots[] = {
    {Py_mod_exec, speedups_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL}
};

static struct PyModuleDef speedups = {
    PyModuleDef_HEAD_INIT,
    .m_name = "broker._speedups",
    .m_doc = PyDoc_STR("What every message passes, in compiled code."),
    .m_size = sizeof(State),
    .m_methods = speedups_methods,
    .m_slots = speedups_slots,
    .m_traverse = speedups_traverse,
    .m_clear = speedups_clear,
    .m_free = speedups_free,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&speedups);
}

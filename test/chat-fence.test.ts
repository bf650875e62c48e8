import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ChatTemplate } from '../lib/chat'
import { Qwen3Error } from '../lib/errors'

const CONTROLS = ['<|im_start|>', '<|im_end|>', '<think>', '</think>']

function run(source: string, content = 'hello'): string {
  return new ChatTemplate(source, CONTROLS, { eos_token: '<|im_end|>' }).render(
    { messages: [{ role: 'user', content }], addGenerationPrompt: true },
    { values: 3, chars: content.length },
  ).text
}

function refusal(source: string): { code: string; subject: string | undefined; message: string } {
  try {
    run(source)
  } catch (error) {
    if (error instanceof Qwen3Error) return { code: error.code, subject: error.subject, message: error.message }
    throw error
  }
  return { code: 'accepted', subject: undefined, message: '' }
}

/** Shortest of a few runs in processor time: other processes of the machine do not count. */
function cost(source: string): number {
  const times = Array.from({ length: 3 }, () => {
    const before = process.cpuUsage()
    refusal(source)
    const { user, system } = process.cpuUsage(before)
    return (user + system) / 1000
  })
  return Math.min(...times)
}

const doubling = '{% set ns = namespace(x="ab") %}{% for i in range(200) %}{% set ns.x = ns.x'
const hostile: [string, string][] = [
  ['an endless range', '{% for i in range(1000000000) %}{% endfor %}'],
  ['a range of infinite length', '{% for i in range(10 ** 300) %}{% endfor %}'],
  ['nested loops', '{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}'],
  ['nested loops that print', '{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}'],
  ['a filtered loop', '{% for i in range(9000) if i in range(9000) %}{% endfor %}'],
  ['a multiplied string', '{{ "x" * 1000000000 }}'],
  ['a multiplied string, turned around', '{{ 1000000000 * "x" }}'],
  ['a string multiplied by infinity', '{{ "x" * (10 ** 308 * 10) }}'],
  ['doubling by +', `${doubling} + ns.x %}{% endfor %}{{ ns.x }}`],
  ['doubling by ~', `${doubling} ~ ns.x %}{% endfor %}{{ ns.x }}`],
  ['doubling by replace', `${doubling}.replace("a", ns.x) %}{% endfor %}{{ ns.x }}`],
  ['doubling by a filter', `${doubling} | replace("a", ns.x) %}{% endfor %}{{ ns.x }}`],
  ['doubling by join', `${doubling} | join(ns.x) %}{% endfor %}{{ ns.x }}`],
  ['doubling by indent', `${doubling} | indent(1000000000, true) %}{% endfor %}{{ ns.x }}`],
  ['doubling by tojson', `${doubling} | tojson | tojson | tojson %}{% endfor %}{{ ns.x }}`],
  [
    'a bound method',
    '{% set f = ("x" * 1000).replace %}{% for i in range(1000) %}{% set y = f("x", "y" * 100000) %}{% endfor %}',
  ],
  ['a bound method through call', '{% set f = ("x" * 1000).replace %}{% call f("x", "y" * 100000) %}{% endcall %}'],
  [
    'doubling of a list',
    '{% set ns = namespace(x=[1]) %}{% for i in range(200) %}{% set ns.x = ns.x + ns.x %}{% endfor %}',
  ],
  [
    'a tree that shares its branches, as JSON',
    '{% set ns = namespace(x=[1]) %}{% for i in range(200) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}',
  ],
  [
    'the same, printed',
    '{% set ns = namespace(x=[1]) %}{% for i in range(200) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}',
  ],
  [
    'the same, concatenated',
    '{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x ~ "" }}',
  ],
  [
    'the same, joined',
    '{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | join }}',
  ],
  ['a value that contains itself', '{% set ns = namespace() %}{% set ns.x = ns %}{{ ns | tojson }}'],
  ['tojson with a giant indent', '{{ {"a": [1]} | tojson(indent=1000000000) }}'],
  ['tojson with giant separators', '{{ range(1000) | list | tojson(separators=("x" * 100000, "y")) }}'],
  ['a macro that calls itself', '{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}'],
  ['a macro that calls itself twice', '{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}'],
  ['repeated sorting', '{% set l = range(3000) | list %}{% for i in range(3000) %}{% set y = l | sort %}{% endfor %}'],
  [
    'repeated copying of a mapping',
    '{% set ns = namespace(d={}) %}{% for i in range(3000) %}{% for k in messages[0].keys() %}{% set y = messages[0].items() %}{% endfor %}{% endfor %}{% for i in range(99999) %}{% endfor %}',
  ],
  [
    'repeated copying into a namespace',
    '{% set l = [["a", 1]] * 1 %}{% for i in range(100000) %}{% set n = namespace(l) %}{% endfor %}',
  ],
  ['repeated splitting', '{% set s = "a," * 20000 %}{% for i in range(20000) %}{% set y = s.split(",") %}{% endfor %}'],
  ['repeated slicing', '{% set s = "a" * 40000 %}{% for i in range(20000) %}{% set y = s[::-1] %}{% endfor %}'],
  [
    'repeated searching',
    '{% set s = "a" * 400000 %}{% for i in range(20000) %}{% if "b" in s %}{% endif %}{% endfor %}',
  ],
  [
    'repeated comparing',
    '{% set s = "a" * 400000 %}{% set t = "a" * 400000 %}{% for i in range(20000) %}{% if s == t %}{% endif %}{% endfor %}',
  ],
  ['repeated stripping', '{% set s = " " * 400000 %}{% for i in range(20000) %}{% set t = s.strip() %}{% endfor %}'],
  ['50,000 nested blocks', '{% if true %}'.repeat(50_000) + '{% endif %}'.repeat(50_000)],
  ['9,000 nested blocks', '{% if true %}'.repeat(9000) + '{% endif %}'.repeat(9000)],
  ['9,000 nested loops', '{% for a in b %}'.repeat(8000) + '{% endfor %}'.repeat(8000)],
  ['9,000 nested sets', '{% set a %}'.repeat(9000) + '{% endset %}'.repeat(9000)],
  ['elif without end', `{% if a %}${'{% elif b %}'.repeat(9000)}{% endif %}`],
  ['nested brackets', `{{ ${'['.repeat(50_000)}${']'.repeat(50_000)} }}`],
  ['nested parentheses', `{{ ${'('.repeat(50_000)}1${')'.repeat(50_000)} }}`],
  ['a chain of sums', `{{ 1${' + 1'.repeat(30_000)} }}`],
  ['a chain of not', `{{ ${'not '.repeat(30_000)}1 }}`],
  ['a chain of attributes', `{{ a${'.b'.repeat(60_000)} }}`],
  ['a chain of filters', `{{ a${'|trim'.repeat(30_000)} }}`],
  ['megabytes of blanks', ' '.repeat(2_000_000)],
  ['long runs of blanks', `${' '.repeat(100_000)}{% if a %}`],
  ['an unfinished statement', '{% if'],
  ['an unfinished expression', '{{ "a'],
  ['an unfinished comment', '{# '],
  ['an unknown statement', '{% include "x" %}'],
  ['an unknown filter', '{{ 1 | nope }}'],
  ['an unknown test', '{{ 1 is nope }}'],
  ['a call of nothing', '{{ nope() }}'],
  ['a break outside of a loop', '{% break %}'],
  ['a division of words', '{{ "a" / "b" }}'],
]

describe('hostile and broken templates', () => {
  test.each(hostile)('%s', (_, source) => {
    const { code, subject, message } = refusal(source)
    expect({ code, subject }).toEqual({ code: 'BAD_MODEL_FILE', subject: 'chat_template' })
    expect(message.length).toBeLessThan(600)
  })

  test.each(hostile)('%s: stops within 50 ms', (_, source) => {
    // Reading a long source, once at loading, is not rendering.
    expect(cost(source)).toBeLessThan(source.length < 10_000 ? 50 : 250)
  })

  test('memory stays bounded', () => {
    const before = process.memoryUsage()
    for (const [, source] of hostile) refusal(source)
    const after = process.memoryUsage()
    expect(after.arrayBuffers + after.external - before.arrayBuffers - before.external).toBeLessThan(16 << 20)
    expect(after.heapUsed - before.heapUsed).toBeLessThan(256 << 20)
  })

  test('the output may grow by a mebibyte and no more', () => {
    expect(run('{{ "x" * 1000000 }}').length).toBe(1_000_000)
    expect(refusal('{{ "x" * 1000000 }}{{ "x" * 1000000 }}').code).toBe('BAD_MODEL_FILE')
  })
})

describe('generated templates', () => {
  const name = fc.constantFrom(
    'messages',
    'm',
    'x',
    'ns',
    'loop',
    'range',
    'true',
    'none',
    'nothing',
    'content',
    'role',
    'tools',
  )
  const atom = fc.oneof(
    name,
    fc.integer({ min: -5, max: 1e9 }).map(String),
    fc.constantFrom('"a"', "'<think>'", '[1, 2]', '{"a": 1}', '1.5', '(1, 2)', 'messages[0]', 'messages[0].content'),
  )
  const filter = fc.constantFrom(
    'length',
    'tojson',
    'join(",")',
    'trim',
    'upper',
    'replace("a", "bb")',
    'sort',
    'first',
    'last',
    'list',
    'default("d")',
    'indent(3)',
    'items',
    'map(attribute="a")',
    'selectattr("a")',
    'int',
    'string',
    'nope',
  )
  const method = fc.constantFrom(
    '.strip()',
    '.split("a")',
    '.startswith("a")',
    '.items()',
    '.keys()',
    '[0]',
    '[::-1]',
    '[1:]',
    '.get("a")',
    '.a',
    '["a"]',
    '.replace("a", x)',
    '()',
    '(1)',
    '(range)',
    '.upper()',
  )
  const operator = fc.constantFrom(
    '+',
    '-',
    '*',
    '/',
    '//',
    '%',
    '**',
    '~',
    '==',
    '!=',
    '<',
    '>',
    'in',
    'not in',
    'and',
    'or',
  )
  const { expression } = fc.letrec<{ expression: string }>((tie) => ({
    expression: fc.oneof(
      { depthSize: 'small', withCrossShrink: true },
      atom,
      fc.tuple(tie('expression'), filter).map(([a, b]) => `${a} | ${b}`),
      fc.tuple(tie('expression'), method).map(([a, b]) => `(${a})${b}`),
      fc.tuple(tie('expression'), operator, tie('expression')).map((parts) => `(${parts.join(' ')})`),
      fc
        .tuple(tie('expression'), fc.constantFrom('defined', 'none', 'string', 'mapping', 'iterable', 'nope'))
        .map(([a, b]) => `(${a} is ${b})`),
      tie('expression').map((a) => `not ${a}`),
      fc.tuple(tie('expression'), tie('expression'), tie('expression')).map(([a, b, c]) => `(${a} if ${b} else ${c})`),
    ),
  }))
  const { block } = fc.letrec<{ block: string }>((tie) => ({
    block: fc.oneof(
      { depthSize: 'small', withCrossShrink: true },
      expression.map((a) => `{{ ${a} }}`),
      fc.string({ unit: fc.constantFrom('a', '{', '}', '%', '#', '-', ' ', '\n', '"') }),
      fc.tuple(name, expression).map(([a, b]) => `{% set ${a} = ${b} %}`),
      fc
        .tuple(expression, tie('block'))
        .map(([a, b]) => `{% set ns = namespace(x=${a}) %}{% set ns.x = ns.x ~ "" %}${b}`),
      fc.tuple(expression, tie('block'), tie('block')).map(([a, b, c]) => `{% if ${a} %}${b}{% else %}${c}{% endif %}`),
      fc.tuple(expression, tie('block')).map(([a, b]) => `{% for m in ${a} %}${b}{% endfor %}`),
      fc.tuple(tie('block'), tie('block')).map(([a, b]) => a + b),
      fc
        .tuple(name, tie('block'), expression)
        .map(([a, b, c]) => `{% macro ${a}(x) %}${b}{% endmacro %}{{ ${a}(${c}) }}`),
    ),
  }))

  test('end with a text or a typed error, soon', () => {
    let rendered = 0
    fc.assert(
      fc.property(block, (source) => {
        const before = process.cpuUsage()
        const { code } = refusal(source)
        const { user, system } = process.cpuUsage(before)
        expect(['accepted', 'BAD_MODEL_FILE']).toContain(code)
        expect((user + system) / 1000).toBeLessThan(250)
        if (code === 'accepted') rendered++
      }),
      { numRuns: process.env.QWEN3_LONG ? 200_000 : 1000 },
    )
    expect(rendered).toBeGreaterThan(70)
  })
})

describe('no object of this process can be reached', () => {
  const names = [
    'constructor',
    '__proto__',
    'prototype',
    'toString',
    'valueOf',
    'hasOwnProperty',
    'call',
    'apply',
    'bind',
    'value',
    'builtins',
    'caller',
    '__class__',
    '__mro__',
    '__globals__',
    '__init__',
  ]
  const roots = [
    'messages',
    'messages[0]',
    '"x"',
    '1',
    '1.5',
    'true',
    'none',
    '[]',
    '{}',
    'range',
    'namespace',
    'raise_exception',
    'namespace()',
    '"x".split',
    'nothing',
    'loop',
    '(1, 2)',
  ]
  test('through attributes and items', () => {
    for (const root of roots) {
      for (const name of names) {
        for (const access of [`${root}.${name}`, `${root}["${name}"]`]) {
          // Undefined prints as nothing; most accesses give that, some are errors, none gives a value.
          const source = `{% set v = ${access} %}{{ v is defined }}`
          const printed = (() => {
            try {
              return run(source)
            } catch (error) {
              if (error instanceof Qwen3Error && error.code === 'BAD_MODEL_FILE') return 'False'
              throw error
            }
          })()
          expect({ access, printed }).toEqual({ access, printed: 'False' })
        }
      }
    }
  })

  test('through global names', () => {
    for (const name of [
      'process',
      'globalThis',
      'global',
      'require',
      'module',
      'console',
      'eval',
      'Function',
      'Object',
      'self',
      'cycler',
      'joiner',
      'lipsum',
      'import',
      'fetch',
    ]) {
      expect(run(`{{ ${name} is defined }}`)).toBe('False')
    }
  })

  test('functions do not print', () => {
    for (const name of ['range', 'namespace', 'raise_exception', '"x".strip', '[1, range]'])
      expect(refusal(`{{ ${name} }}`).code).toBe('BAD_MODEL_FILE')
  })
})

describe('raise_exception is the messages fault', () => {
  test('its reason is reported', () => {
    expect(refusal("{{ raise_exception('Only user turns, please') }}")).toMatchObject({
      code: 'INVALID_ARGUMENT',
      subject: 'messages',
    })
    expect(refusal("{{ raise_exception('Only user turns, please') }}").message).toContain('Only user turns, please')
    for (const argument of ['', '5', '[range]', 'none', '"x" * 100000']) {
      expect(refusal(`{{ raise_exception(${argument}) }}`)).toMatchObject({ code: 'INVALID_ARGUMENT' })
      expect(refusal(`{{ raise_exception(${argument}) }}`).message.length).toBeLessThan(1200)
    }
  })
})

describe('Python semantics where the library differs', () => {
  test.each([
    ['{{ "  \\nx\\n  ".strip("\\n") }}|', '  \nx\n  |'],
    ['{{ "\\n\\n x".lstrip("\\n") }}', ' x'],
    ['{{ "x \\n".rstrip("\\n") }}|', 'x |'],
    ['{{ "\u0085x\u001c".strip() }}', 'x'],
    ['{{ "\ufeffx".strip() }}', '\ufeffx'],
    ['{{ none ~ true ~ 1 ~ 1.0 }}', 'NoneTrue11.0'],
    ['{{ 1 == "1" }}', 'False'],
    ['{{ none == nothing }}', 'False'],
    ['{{ true == 1 }}', 'True'],
    ['{{ "ab" * 3 }}', 'ababab'],
    ['{% for x in nothing %}a{% else %}b{% endfor %}', 'b'],
    ['{{ "a b  c".split() | join("-") }}', 'a-b-c'],
    ['{{ "a,b,c".split(",", 1) | join("-") }}', 'a-b,c'],
    ['{{ "aXbX".replace("X", "y", 1) }}', 'aybX'],
    ['{{ "abc"[::-1] }}{{ "abc"[0] }}{{ "abc" | length }}{{ "abc".length }}', 'cbaa33'],
    ['{{ "abc".find("c") }}{{ "hello world".title() }}', '2Hello World'],
    ['{{ "Ab".startswith(("x", "A")) }}', 'True'],
    ['{{ "x" in ["x"] }}{{ "y" not in {"x": 1} }}{{ "<think>" in "a<think>" }}', 'TrueTrueTrue'],
    ['{{ "<think>" == "<" + "think>" }}', 'True'],
    ['{{ "<think>a".startswith("<think>") }}{{ "<think>" | length }}{{ "<think>abc"[7:] }}', 'True7abc'],
    ['{{ "<think>a</think>b".split("</think>")[-1] }}', 'b'],
    ['{% macro f(x, y="d") %}{{ x }}{{ y }}{% endmacro %}{{ f("a") }}{{ f("a", y="b") }}', 'adab'],
    ['{{ [3, 1, 2] | sort | join(",") }}{{ {"b": 1, "a": 2} | dictsort | length }}', '1,2,32'],
    ['{{ [{"n": "x"}, {"n": "y"}] | map(attribute="n") | join(",") }}', 'x,y'],
    ['{{ [{"n": "x"}, {"m": "y"}] | selectattr("n", "defined") | list | length }}', '1'],
    ['{{ "a\nb" | indent(2) }}', 'a\n  b'],
    ['{{ nothing | default("d") }}{{ {"a": [1, true, none, "é"]} | tojson }}', 'd{"a": [1, true, null, "é"]}'],
    ['{% filter upper %}abc{% endfilter %}', 'ABC'],
    ['{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}', '012'],
    ['{{ eos_token }}', '<|im_end|>'],
    ['{{ [1, true, none, "a", "it\'s", {"k": 1.5}] }}', `[1, True, None, 'a', "it's", {'k': 1.5}]`],
    ['{{ (1, 2) ~ (1, "x\\n") }}', "(1, 2)(1, 'x\\n')"],
    ['{{ strftime_now("%Y") | length }}', '4'],
  ])('%s', (source, expected) => {
    expect(run(source)).toBe(expected)
  })

  test('the library is the version whose seams this was written against', () => {
    // The fence overrides evaluate, evaluateBlock, evaluateArguments and applyFilter: read their source again after an upgrade.
    const { version } = JSON.parse(
      readFileSync(join(__dirname, '..', 'node_modules', '@huggingface', 'jinja', 'package.json'), 'utf8'),
    )
    expect(version).toMatch(/^0\.5\./)
  })
})

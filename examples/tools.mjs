// The model asks for a tool, the program runs it, the model answers from the result. Calls arrive parsed; drafts of calls
// inside the thinking are never taken for calls.
import { Qwen3 } from 'qwen3'

const tools = [
  {
    type: 'function',
    function: {
      name: 'calculator',
      description: 'Evaluate an arithmetic expression.',
      parameters: { type: 'object', properties: { expression: { type: 'string' } }, required: ['expression'] },
    },
  },
]

/** Sums and differences only: what a model writes is input like any other. */
function calculate(expression) {
  if (!/^[\d\s+-]+$/.test(expression)) return 'error: only + and - are known here'
  return String(
    expression
      .replace(/\s/g, '')
      .match(/[+-]?\d+/g)
      .reduce((sum, term) => sum + Number(term), 0),
  )
}

const model = await Qwen3.load('nano')
try {
  const messages = [
    {
      role: 'user',
      content: 'Tom has 48 apples. Day 1: he buys 37. Day 2: he loses 29. How many apples does Tom have now?',
    },
  ]
  for (let turn = 0; turn < 4; turn++) {
    const { text, message, toolCalls } = await model.chat(messages, { tools, seed: 1 }).result()
    messages.push(message)
    if (toolCalls.length === 0) {
      console.log(text)
      break
    }
    for (const call of toolCalls) {
      const content = calculate(call.arguments.expression ?? '')
      console.log(`${call.name}(${JSON.stringify(call.arguments)}) = ${content}`)
      messages.push({ role: 'tool', tool_call_id: call.id, content })
    }
  }
} finally {
  await model.close()
}

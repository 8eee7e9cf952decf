import sys, time
sys.path.insert(0,'/tmp/w19')
from dataclasses import replace
import torch; torch.set_num_threads(1)
from scripts.bench import arms
from scripts.bench.search import open_models
from search import frontier
from search.mcts import Search
from search.randomness import derive_seed
task, n, seed, tool = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]!='0'
from pathlib import Path
m=open_models(task, tool)
problems=m.task.held_out(n, 777_000+seed)
def run(name, **kw):
    s=replace(arms.unlimited(m.settings, 1000), **kw)
    own=m.with_search(s)
    ss=[Search(own.root(p), s, derive_seed(seed,p.id,'x'), own.same_answer) for p in problems]
    t=time.process_time()
    for i in range(0,len(ss),100): frontier.run(ss[i:i+100], own, own)
    t=time.process_time()-t
    right=[]
    for q,p in zip(ss,problems):
        r=q.result().chosen
        right.append(m.task.is_correct(r.rollout.answer if r else None, p.answer or ''))
    out=[]
    for b in (64,100,250,500,1000):
        out.append(sum(ok and q.budget.tokens<=b for ok,q in zip(right,ss)))
    why={}
    for q in ss: why[q.stop_reason]=why.get(q.stop_reason,0)+1
    print(f"{name:34s}", 'by 64/100/250/500/1000', out, 'of',n,'tokens',round(sum(q.budget.tokens for q in ss)/n),why, f"{t:.0f}s", flush=True)
for spec in sys.argv[5:]:
    kw={}
    for part in spec.split(','):
        if part and part!='default':
            k,v=part.split('='); 
            try: v=int(v)
            except ValueError:
                try: v=float(v)
                except ValueError: pass
            kw[k]=v
    run(spec, **kw)

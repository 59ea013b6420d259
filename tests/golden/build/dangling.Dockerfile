FROM BASE
RUN ln -s /nowhere/real /dang && ln -s /nofile /df && mkdir /keep && chmod 700 /keep && ln -s ../rel/./x /updir
COPY a.txt /dang/f
COPY b.txt /df
COPY dir /keep
COPY a.txt /updir/
